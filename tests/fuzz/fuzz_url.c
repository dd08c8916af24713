/* Addresses. Input: an address, a newline, a second one: the one that we have, and the one that a server offers in its
 * place. What parses must parse again as the same after it was written; who may replace whom is judged a second time
 * here, with inet_pton() and string ends, and so is whether plain text would leave this machine. */
#include "fuzz.h"

static int is_ip(const char *host, uint8_t address[16])
{
    memset(address, 0, 16);
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

static int is_loopback(const char *host)
{
    uint8_t address[16];
    static const uint8_t one[16] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 };
    if (inet_pton(AF_INET, host, address) == 1) return address[0] == 127;
    if (inet_pton(AF_INET6, host, address) == 1) return memcmp(address, one, 16) == 0;
    return strcmp(host, "localhost") == 0;
}

static int is_request_text(const char *text)
{
    for (; *text; text++) if (*text <= ' ' || *text > '~' || *text == '#') return 0;
    return 1;
}

/* The host as it stands in the text: between "://" and what may follow it. */
static void check_host(const gw__url *url, const char *text, size_t len)
{
    size_t begin = 0, end, at;
    while (begin + 3 <= len && memcmp(text + begin, "://", 3) != 0) begin++;
    FUZZ_CHECK(begin + 3 <= len);
    begin += 3;
    if (text[begin] == '[') {
        begin++;
        for (end = begin; end < len && text[end] != ']'; end++) { }
    } else {
        for (end = begin; end < len && !strchr(":/?@\\", text[end]); end++) { }
    }
    FUZZ_CHECK(end - begin == strlen(url->host) && end > begin);
    for (at = begin; at < end; at++)
        FUZZ_CHECK((text[at] | 0x20) == (url->host[at - begin] | 0x20));
    for (; end < len && text[end] != '/' && text[end] != '?'; end++)
        FUZZ_CHECK(strchr("]:0123456789", text[end]));
}

static int parse(gw__url *url, const char *text, size_t len)
{
    gw__fault fault;
    gw__url again;
    char written[GW__HOST_MAX + GW__PATH_MAX + 32], target[GW__TARGET_MAX];
    uint8_t address[16];
    size_t at;
    memset(&fault, 0, sizeof fault);
    if (!gw__url_parse(url, text, len, &fault)) {
        FUZZ_CHECK(fault.reason == GW_REASON_CONFIG && fault.text[0]);
        return 0;
    }
    FUZZ_CHECK(fault.reason == GW_REASON_NONE && url->host[0] && url->target[0] == '/' &&
               url->port);
    FUZZ_CHECK(is_request_text(url->host) && is_request_text(url->target));
    check_host(url, text, len);
    if (strchr(url->host, ':')) FUZZ_CHECK(is_ip(url->host, address));
    else for (at = 0; url->host[at]; at++) FUZZ_CHECK(!strchr("@/?:\\[]%", url->host[at]));
    at = gw__url_write(url, written, sizeof written);
    FUZZ_CHECK(at + 1 < sizeof written && at == strlen(written));
    FUZZ_CHECK(gw__url_parse(&again, written, at, &fault) &&
               memcmp(&again, url, sizeof again) == 0);
    FUZZ_CHECK(gw__url_allowed(url, &fault) == (url->secure || is_loopback(url->host)));
    at = gw__url_gateway_target(url, NULL, target, sizeof target);
    FUZZ_CHECK(at > 0 && at == strlen(target) && target[0] == '/' && is_request_text(target));
    FUZZ_CHECK(at >= 18 && strcmp(target + at - 18, "v=10&encoding=json") == 0);
    memset(&again, 0, sizeof again);
    at = gw__text_format(again.target, sizeof again.target, "%s", target);
    if (at + 1 < sizeof again.target) {
        char twice[GW__TARGET_MAX];     /* ours are not added to ours */
        gw__url_gateway_target(&again, NULL, twice, sizeof twice);
        FUZZ_CHECK(strcmp(twice, target) == 0);
    }
    return 1;
}

/* May the token go to `offered`? Asked of somebody else. */
static int is_akin(const gw__url *cached, const gw__url *offered)
{
    uint8_t one[16], two[16];
    const char *parent = strchr(cached->host, '.');
    size_t parent_len, len = strlen(offered->host);
    int ip = is_ip(cached->host, one), other_ip = is_ip(offered->host, two);
    if (cached->secure != offered->secure || cached->http != offered->http) return 0;
    if (strcmp(cached->host, offered->host) == 0) return 1;
    if (ip || other_ip) return ip && other_ip && memcmp(one, two, 16) == 0;
    if (!parent || !strchr(parent + 1, '.')) return 0;
    parent_len = strlen(parent);
    return len > parent_len && strcmp(offered->host + len - parent_len, parent) == 0;
}

static void replace(const gw__url *cached, const gw__url *offered)
{
    gw__fault fault;
    int may;
    memset(&fault, 0, sizeof fault);
    may = gw__url_may_replace(cached, offered, &fault);
    FUZZ_CHECK(may == is_akin(cached, offered));
    FUZZ_CHECK(may == (fault.reason == GW_REASON_NONE));
}

static void fuzz_one(const uint8_t *bytes, size_t len)
{
    const char *text = fuzz_copy(bytes, len);
    const char *line = text ? (const char *)memchr(text, '\n', len) : NULL;
    size_t first = line ? (size_t)(line - text) : len;
    gw__url discord, cached, offered;
    gw__fault fault;
    int has_cached = text && parse(&cached, text, first), has_offered = 0;
    memset(&fault, 0, sizeof fault);
    FUZZ_CHECK(gw__url_parse(&discord, "wss://gateway.discord.gg", 24, &fault));
    if (line) has_offered = parse(&offered, line + 1, len - first - 1);
    if (has_cached && has_offered) replace(&cached, &offered);
    if (has_cached) replace(&discord, &cached);
    if (has_cached) replace(&cached, &discord);
    if (has_cached && gw__url_may_replace(&discord, &cached, &fault)) {
        size_t host_len = strlen(cached.host);
        FUZZ_CHECK(cached.secure && !cached.http && host_len > 11);
        FUZZ_CHECK(strcmp(cached.host + host_len - 11, ".discord.gg") == 0);
    }
    free((void *)(uintptr_t)text);
}
