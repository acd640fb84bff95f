export default()=>Promise.reject(new Error("There is no browser on a runner"));
