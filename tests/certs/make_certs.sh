#!/bin/sh
# Makes the test CA and every certificate of this folder. Only needed to change them: all results are committed, keys too.
#   cd tests/certs && sh make_certs.sh          needs openssl 1.1.1 or later
# The keys are public. Nothing outside these tests may ever trust ca.pem.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
from=20200101000000Z
until=20491231235959Z

cat > "$work/ca.conf" <<CONF
[ca]
default_ca = test
[test]
database = $work/index
new_certs_dir = $work
rand_serial = yes
policy = any
default_md = sha256
unique_subject = no
email_in_dn = no
[any]
commonName = supplied
CONF
: > "$work/index"

ec_key()  { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"; }
rsa_key() { openssl genpkey -algorithm RSA -pkeyopt "rsa_keygen_bits:$2" -out "$1.key" 2>/dev/null; }

# sign OUT KEY "COMMON NAME" ISSUER EXTENSIONS [more arguments of "openssl ca"]; issuer "self": signed by its own key
sign() {
    out=$1 key=$2 name=$3 issuer=$4
    printf '[ext]\n%b\n' "$5" > "$work/ext"
    shift 5
    openssl req -new -key "$key.key" -subj "/CN=$name" -out "$work/request"
    if [ "$issuer" = self ]; then set -- -selfsign -keyfile "$key.key" "$@"
    else set -- -cert "$issuer.pem" -keyfile "$issuer.key" "$@"; fi
    case " $* " in *-enddate*) ;; *) set -- -startdate $from -enddate $until "$@" ;; esac
    openssl ca -batch -notext -config "$work/ca.conf" -extfile "$work/ext" -extensions ext \
        -in "$work/request" -out "$work/signed" "$@" 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
    openssl x509 -in "$work/signed" -out "$out.pem"
}
# chain OUT MORE...: appends the certificates above a leaf
chain() { out=$1; shift; for more in "$@"; do cat "$more.pem" >> "$out.pem"; done; }

root='basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash'
leaf='basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature'
server="$leaf\nextendedKeyUsage=serverAuth"
here='subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1'

ec_key ca;           sign ca ca "gw test root" self "$root"
ec_key other-ca;     sign other-ca other-ca "gw other root" self "$root"
sign impostor-ca other-ca "gw test root" self "$root"
ec_key intermediate; sign intermediate intermediate "gw test intermediate" ca "$root"
ec_key server;       sign server server localhost intermediate "$server\n$here"
cp server.pem missing-intermediate.pem
cp server.pem "$work/leaf.pem"; cp server.key "$work/leaf.key"
chain server intermediate
rsa_key server-rsa 2048; sign server-rsa server-rsa localhost intermediate "$server\n$here"; chain server-rsa intermediate
rsa_key rsa1024 1024;    sign rsa1024 rsa1024 localhost intermediate "$server\n$here";       chain rsa1024 intermediate

# All of these have the key of server.pem: server.key.
sign wildcard    server gateway.test    intermediate "$server\nsubjectAltName=DNS:*.gateway.test"; chain wildcard intermediate
sign names-only  server localhost       intermediate "$server\nsubjectAltName=DNS:localhost";      chain names-only intermediate
sign no-san      server localhost       intermediate "$server";                                    chain no-san intermediate
sign wrong-host  server example.test    intermediate "$server\nsubjectAltName=DNS:example.test,DNS:www.example.test,IP:192.0.2.1"
chain wrong-host intermediate
sign expired     server localhost       intermediate "$server\n$here" -startdate 20200101000000Z -enddate 20210101000000Z
chain expired intermediate
sign not-yet     server localhost       intermediate "$server\n$here" -startdate 20480101000000Z -enddate $until
chain not-yet intermediate
sign "$work/old" intermediate "gw test intermediate" ca "$root" -startdate 20200101000000Z -enddate 20210101000000Z
cp "$work/leaf.pem" expired-intermediate.pem; cat "$work/old.pem" >> expired-intermediate.pem
sign self-signed server localhost       self         "$server\n$here"
sign unknown-ca  server localhost       other-ca     "$server\n$here"; chain unknown-ca other-ca
sign not-a-ca    server localhost       "$work/leaf" "$server\n$here"; cat "$work/leaf.pem" >> not-a-ca.pem; chain not-a-ca intermediate
sign sha1        server localhost       intermediate "$server\n$here" -md sha1; chain sha1 intermediate
sign wrong-usage server localhost       intermediate "$leaf\nextendedKeyUsage=clientAuth\n$here"; chain wrong-usage intermediate
sign any-usage   server localhost       intermediate "$leaf\nextendedKeyUsage=anyExtendedKeyUsage\n$here"; chain any-usage intermediate
sign key-usage   server localhost       intermediate "basicConstraints=CA:FALSE\nkeyUsage=critical,cRLSign\n$here"; chain key-usage intermediate
sign critical    server localhost       intermediate "$server\n$here\n1.2.3.4=critical,ASN1:UTF8String:what is this"
chain critical intermediate
sign "$work/mail" intermediate "gw test intermediate" ca "$root\nextendedKeyUsage=emailProtection"
cp "$work/leaf.pem" mail-intermediate.pem; cat "$work/mail.pem" >> mail-intermediate.pem
# What is wrong may stand in the intermediate as well. The usual name and key, so that the usual leaf fits below.
below_intermediate() {  # OUT EXTENSIONS [more arguments of "openssl ca"]
    whole=$1 extensions=$2
    shift 2
    sign "$work/above" intermediate "gw test intermediate" ca "$extensions" "$@"
    cp "$work/leaf.pem" "$whole.pem"; cat "$work/above.pem" >> "$whole.pem"
}
may_sign='keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash'
below_intermediate no-ca-flag         "$may_sign"
below_intermediate false-ca-flag      "basicConstraints=critical,CA:FALSE\n$may_sign"
below_intermediate ca-may-not-sign    'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,cRLSign'
below_intermediate ca-critical        "$root\n1.2.3.4=critical,ASN1:UTF8String:what is this"
below_intermediate ca-sha1            "$root" -md sha1
sign "$work/weak" rsa1024 "gw test weak" ca "$root"; cp rsa1024.key "$work/weak.key"
sign ca-rsa1024 server localhost "$work/weak" "$server\n$here"; chain ca-rsa1024 "$work/weak"
sign "$work/last" intermediate "gw test last" ca "basicConstraints=critical,CA:TRUE,pathlen:0\n$may_sign"
cp intermediate.key "$work/last.key"
sign "$work/one-more" other-ca "gw test one more" "$work/last" "$root"; cp other-ca.key "$work/one-more.key"
sign ca-path server localhost "$work/one-more" "$server\n$here"; chain ca-path "$work/one-more" "$work/last"
# With RSA, because OpenSSL serves no EC certificate that may not sign.
sign key-usage-rsa    server-rsa localhost intermediate "basicConstraints=CA:FALSE\nkeyUsage=critical,cRLSign\n$here"
chain key-usage-rsa intermediate
sign key-encipherment server-rsa localhost intermediate "basicConstraints=CA:FALSE\nkeyUsage=critical,keyEncipherment\n$here"
chain key-encipherment intermediate
names=$(i=0; while [ $i -lt 400 ]; do printf 'DNS:a-rather-long-name-%d.gateway.test,' $i; i=$((i + 1)); done)
sign large       server localhost       intermediate "$server\nsubjectAltName=${names}DNS:localhost"; chain large intermediate
# A CA with an RSA key, as most that the world trusts; and two intermediates that must not serve as such.
sign rsa-ca      server-rsa "gw rsa root" self "$root"
cp rsa-ca.pem "$work/rsa-ca.pem"; cp server-rsa.key "$work/rsa-ca.key"
sign rsa-signed  server localhost       "$work/rsa-ca" "$server\n$here"
sign "$work/swapped" server-rsa "gw test intermediate" ca "$root"
cp "$work/leaf.pem" wrong-key-type.pem; cat "$work/swapped.pem" >> wrong-key-type.pem
sign "$work/no-sign" intermediate "gw test intermediate" ca "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature"
cp "$work/leaf.pem" no-cert-sign.pem; cat "$work/no-sign.pem" >> no-cert-sign.pem
