export const id=82;export const ids=[82];export const modules={9082:(s,o,t)=>{t.r(o),t.d(o,{satisfies:()=>satisfies});const satisfies=()=>!0}};
