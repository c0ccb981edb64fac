export const apps = [{ name: "esm", script: "api.js" }];
