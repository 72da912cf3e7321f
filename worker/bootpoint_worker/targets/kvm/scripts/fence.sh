# Say why a writer's connection ended. $1 directory, $2 layer file, $3 layer id. Prints: fence number, or "ended".
cd "$1" 2>/dev/null || exit 78
if [ ! -e "run/$3.fence" ]; then echo ended; exit 0; fi
cat "run/$3.fence"
[ -f "$2" ] || exit 78
