/* http_probe -- asks once for GET /api/v10/gateway/bot below a base URL, as the library does, and says what came back.
 * Build:  make        or: cc -I. -Itests tests/http_probe.c -o build/http_probe -lbearssl -lpthread
 * Run:    DISCORD_TOKEN=... build/http_probe https://discord.com
 * Exit code 0: stdout has the answer as JSON. 1: its last line is {"class":"http_401","msg":"..."}, or another class. 2: not
 * one URL, or a GW_TIMEOUT that is none. GW_TIMEOUT: seconds for all of it (6). GW_CA_FILE: a PEM file of trusted authorities, in place of the system's. */
#include "probe.h"

static int is_http_url(probe *p, const char *text)
{
    gw__url url;
    if (!gw__url_parse(&url, text, strlen(text), &p->fault)) return 0;
    if (url.http) return 1;
    gw__fault_set(&p->fault, GW_REASON_CONFIG, 0, "URL: the base of an HTTP API is written https://host");
    return 0;
}

static int ask(probe *p, gw__discover *discover, const char *base_url, const char *token)
{
    if (!is_http_url(p, base_url)) return 0;
    if (!gw__discover_begin(discover, base_url, token, 1, probe_now_ms())) return probe_fail(p, &discover->fault);
    p->url_is_good = 1;
    for (;;) {
        gw__trust_clock clock = probe_clock();
        switch (gw__discover_step(discover, &p->trust, &clock, probe_now_ms())) {
        case GW__DISCOVER_DONE:   return 1;
        case GW__DISCOVER_FAILED: return probe_fail(p, &discover->fault);
        case GW__DISCOVER_MORE:
            if (probe_now_ms() < p->until_ms) continue;
            break;
        case GW__DISCOVER_WAITING: break;
        }
        if (!probe_wait_until(p, &discover->link, p->until_ms))
            return probe_expire(p, &discover->link, "no whole answer to GET /gateway/bot");
    }
}

/* A status is a class of its own, unless the answer was a 200 that could not be read. */
static const char *class_of(const probe *p, char out[16])
{
    if (p->fault.reason != GW_REASON_HTTP || p->fault.code < 100 || p->fault.code == 200) return probe_class(p);
    gw__text_format(out, 16, "http_%d", (int)p->fault.code);
    return out;
}

static void tell_answer(const gw__gateway_info *info)
{
    char url[6 * sizeof info->url + 3];
    gw_quote(info->url, strlen(info->url), url, sizeof url);
    printf("{\"url\":%s,\"shards\":%u,\"total\":%u,\"remaining\":%u,\"reset_after\":%llu,\"max_concurrency\":%u}\n", url,
           (unsigned)info->shards, (unsigned)info->total, (unsigned)info->remaining,
           (unsigned long long)info->reset_after_ms, (unsigned)info->max_concurrency);
}

/* The sentence with the wait that the server asks for, and never with the token, which a server may send back. */
static int tell_fault(probe *p, const gw__discover *discover, const char *token)
{
    char class_name[16];
    uint64_t wait_ms = p->fault.reason == GW_REASON_HTTP ? gw__http_wait_ms(&discover->http) : 0;
    size_t len = strlen(p->fault.text);
    if (wait_ms)
        gw__text_format(p->fault.text + len, sizeof p->fault.text - len, "; to be asked again after %llu ms",
                        (unsigned long long)wait_ms);
    gw__text_redact(p->fault.text, token);
    return probe_tell(p, class_of(p, class_name));
}

int main(int argc, char **argv)
{
    static probe p;
    static gw__discover discover;
    char token[512];
    const char *given = getenv("DISCORD_TOKEN");
    double timeout_s = 6;
    size_t token_len = 0;
    int is_open, exit_code = PROBE_OK;
    if (argc != 2 || argv[1][0] == '-') {
        fprintf(stderr, "one URL is wanted: http_probe https://discord.com\n");
        return PROBE_USAGE;
    }
    if (!probe_setting("GW_TIMEOUT", 0.001, 86400, &timeout_s)) return PROBE_USAGE;
    given = given ? gw__token_trim(given, &token_len) : "";
    gw__text_format(token, sizeof token, "%.*s", (int)token_len, given);
    is_open = probe_open(&p);
    gw__discover_init(&discover, &p.net);
    probe_be_patient(&p, (uint32_t)(timeout_s * 1000));
    if (is_open && ask(&p, &discover, argv[1], token[0] ? token : NULL)) tell_answer(&discover.info);
    if (p.fault.reason) exit_code = tell_fault(&p, &discover, token);
    gw__discover_end(&discover);
    probe_close(&p);
    return exit_code;
}
