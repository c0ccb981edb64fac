echo "WHO=$WHO ENVFILE=$ENVFILE args=$*" >> "$OUT"
exec sleep 100000
