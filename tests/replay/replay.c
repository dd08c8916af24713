/* replay -- plays a recorded trace to a real client offline, and prints where it acts otherwise.
 * Build:  make        or: cc -I. -Itests tests/replay/replay.c -o build/replay -lbearssl -lpthread
 * Run:    build/tail --trace trace.jsonl; build/replay trace.jsonl
 *         GW_LOG=trace build/tail 2>trace.log; build/replay trace.log         (-: standard input)
 * The last line counts. Exit code 0: no difference. 1: some, or the file cannot be read. 2: used
 * wrongly. See replay.h. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1       /* POSIX names under -std=c99 */
#endif
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "replay/replay.h"

static char *read_all(FILE *file, size_t *len)
{
    size_t cap = 65536, got;
    char *text = (char *)replay_room(NULL, cap);
    *len = 0;
    while ((got = fread(text + *len, 1, cap - *len, file)) > 0) {
        *len += got;
        if (*len == cap) text = (char *)replay_room(text, cap *= 2);
    }
    return text;
}

int main(int argc, char **argv)
{
    static replay r;
    size_t len;
    char *text;
    FILE *file;
    if (argc != 2) {
        fprintf(stderr, "one recording is wanted: replay FILE\n");
        return 2;
    }
    file = strcmp(argv[1], "-") == 0 ? stdin : fopen(argv[1], "rb");
    if (!file) {
        fprintf(stderr, "replay: %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    text = read_all(file, &len);
    if (file != stdin) fclose(file);
    replay_begin(&r, stdout);
    replay_text(&r, text, len);
    printf("%u payloads, %u connections, %u shards: %u differences\n", (unsigned)r.payloads,
           (unsigned)r.connections,
           (unsigned)r.shards, (unsigned)r.differences);
    replay_end(&r);
    free(text);
    return r.differences ? 1 : 0;
}
