import{main as a}from"./action.js";await a();
