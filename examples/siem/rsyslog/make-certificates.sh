#!/bin/sh
# Makes a CA and certificates for a trial: make-certificates.sh FOLDER SIEM-NAME HOST-NAME
set -eu
folder=$1 siem=$2 host=$3
mkdir -p "$folder"
cd "$folder"
umask 077

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj "/CN=Lynceus trial CA" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout ca.key -out ca.pem 2>/dev/null

for name in "$siem" "$host"; do
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -subj "/CN=$name" -keyout "$name.key" -out "$name.csr" 2>/dev/null
    # A name that is an address needs to be called one.
    case $name in *[!0-9.]*) kind=DNS ;; *) kind=IP ;; esac
    printf 'subjectAltName=%s:%s\n' "$kind" "$name" > "$name.ext"
    openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 825 \
        -extfile "$name.ext" -out "$name.pem" 2>/dev/null
    rm "$name.csr" "$name.ext"
done
