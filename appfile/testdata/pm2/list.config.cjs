module.exports = [{ name: "list", script: "api.js" }];
