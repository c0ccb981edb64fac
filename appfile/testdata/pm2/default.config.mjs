export default { apps: { name: "esm", script: "api.js" } };
