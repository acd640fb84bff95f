import{post as a}from"./shared.js";await a();
