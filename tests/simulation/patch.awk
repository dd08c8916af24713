# awk -v law=NAME -f patch.awk defects.txt discord_gateway.h: a copy of the header with that deliberate defect.
# Ends with 1, and a sentence, if a text is not there exactly once.
FNR == NR {
    if ($0 !~ /^#/ && index($0, law "|") == 1) {
        rest = substr($0, length(law) + 2)
        at = index(rest, "|")
        old[++count] = substr(rest, 1, at - 1)
        new[count] = substr(rest, at + 1)
    }
    next
}
{
    for (i = 1; i <= count; i++) {
        at = index($0, old[i])
        if (!at) continue
        found[i]++
        $0 = substr($0, 1, at - 1) new[i] substr($0, at + length(old[i]))
    }
    print
}
END {
    if (!count) { print "patch.awk: no defect for " law > "/dev/stderr"; exit 1 }
    for (i = 1; i <= count; i++)
        if (found[i] != 1) {
            print "patch.awk: " law ": found " found[i] + 0 " times: " old[i] > "/dev/stderr"
            exit 1
        }
}
