echo "NODE_ENV=$NODE_ENV args=$*" >> "$OUT"
exec sleep 100000
