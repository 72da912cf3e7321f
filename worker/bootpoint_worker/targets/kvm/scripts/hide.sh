# End the server of one reader. $1 layer id, $2 the reader's name.
end_servers "$1.r$2"
