exec npm start
