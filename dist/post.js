import{post as a}from"./action.js";await a();
