import{main as a}from"./shared.js";await a();
