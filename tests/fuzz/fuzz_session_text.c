/* The text of gw_session_save(). Input: a byte of settings, the text. Bit 0: it gets a good seal, as if we had written
 * it; else it is taken as it stands, and must be refused. Bit 1: three shards, bit 2: as many as the text says, bit 3:
 * config.url is given. What was taken and is saved again must be taken again, and saved as the same. */
#include "fuzz.h"

#define TOKEN "MTA5ODc2NTQz.GabcDE.thisTokenMustNeverBeSeen"
#define UNIX_TIME 1767323045u

static fuzz_memory memory;
/* libFuzzer reads what we look for; then nothing is proved by finding it */
static int input_has_token;

static void no_token(const char *text)
{
    FUZZ_CHECK(gw__utf8_is(text, strlen(text)) && (input_has_token || !strstr(text, "thisToken")));
}

static uint64_t on_monotonic(void *user) { (void)user; return 5000000; }
static uint64_t on_unix(void *user) { (void)user; return UNIX_TIME; }

static void on_log(void *user, uint32_t level, int32_t shard, const char *text)
{
    (void)user; (void)level; (void)shard;
    no_token(text);
}

static gw_client *open_client(uint32_t settings)
{
    gw_config cfg = GW_INIT;
    gw_client *gw;
    cfg.token = TOKEN;
    cfg.user = &memory;
    cfg.alloc = fuzz_alloc;
    cfg.log = on_log;
    cfg.log_level = GW_LOG_TRACE;
    cfg.monotonic_us = on_monotonic;
    cfg.unix_time = on_unix;
    if (settings & 2) cfg.shard_count = cfg.shard_total = 3;
    if (settings & 4) cfg.shard_count = GW_ALL;
    if ((settings & 8) && !(settings & 4)) cfg.url = "wss://gateway.discord.gg/";
    gw = gw_open(&cfg);
    FUZZ_CHECK(gw != NULL);
    return gw;
}

static size_t seal_of(const char *text, size_t len, const char *token, char end[GW__END_LEN + 1])
{
    br_hmac_context seal;
    gw__seal_begin(&seal, token);
    br_hmac_update(&seal, text, len);
    gw__seal_end(&seal, end);
    return GW__END_LEN;
}

static void look_at(const gw_client *gw)
{
    uint32_t i;
    gw__fault fault;
    memset(&fault, 0, sizeof fault);
    FUZZ_CHECK(gw->shard_count <= GW__SHARDS_MAX);
    FUZZ_CHECK(gw__gate_spent(&gw->shared.gate) <= 4095u * GW__GATE_HOURS);
    for (i = 0; i < gw->shard_count; i++) {
        const gw__session *session = &gw->shards[i]->session;
        const gw__url *url = &session->resume_url;
        FUZZ_CHECK(memchr(session->id, 0, sizeof session->id) != NULL);
        if (!url->host[0]) continue;
        FUZZ_CHECK(!url->http && gw__url_allowed(url, &fault));
        FUZZ_CHECK(!gw->shared.has_gateway_url ||
                   gw__url_may_replace(&gw->shared.gateway_url, url, &fault));
    }
}

/* The text that it saves; its length does not depend on the room, and it is never longer than promised. */
static void save(gw_client *gw, fuzz_text *out)
{
    size_t len = gw_session_save(gw, GW_ALL, NULL, 0);
    char *text = (char *)malloc(len + 1), small[40];
    FUZZ_CHECK(len > 0 && len < (size_t)GW_SESSION_MAX * (gw->shard_count ? gw->shard_count : 1));
    FUZZ_CHECK(gw_session_save(gw, GW_ALL, text, len + 1) == len && strlen(text) == len);
    FUZZ_CHECK(gw_session_save(gw, GW_ALL, small, sizeof small) == len &&
               memcmp(small, text, sizeof small - 1) == 0);
    no_token(text);
    out->len = 0;
    fuzz_add(out, text, len);
    free(text);
}

static int load(gw_client *gw, const char *text, size_t len)
{
    char *copy = fuzz_copy(text, len);
    int taken = gw__client_load(gw, copy ? copy : "", len, GW_ALL, 5000);
    free(copy);
    look_at(gw);
    return taken;
}

static void taken_again(uint32_t settings, const fuzz_text *saved)
{
    gw_client *gw = open_client(settings);
    fuzz_text again;
    memset(&again, 0, sizeof again);
    FUZZ_CHECK(load(gw, (const char *)saved->bytes, saved->len));
    save(gw, &again);
    FUZZ_CHECK(fuzz_same(saved, &again));
    fuzz_free(&again);
    gw_close(gw);
}

/* Whatever differs in one bit, or lacks its end, is refused. */
static void refused_when_touched(uint32_t settings, const fuzz_text *saved)
{
    gw_client *gw = open_client(settings);
    uint64_t seed = settings + saved->len;
    size_t at = (size_t)(fuzz_random(&seed) % saved->len);
    saved->bytes[at] ^= (uint8_t)(1u << (seed & 7));
    FUZZ_CHECK(!load(gw, (const char *)saved->bytes, saved->len));
    saved->bytes[at] ^= (uint8_t)(1u << (seed & 7));
    FUZZ_CHECK(!load(gw, (const char *)saved->bytes, at));
    gw_close(gw);
}

static void fuzz_one(const uint8_t *bytes, size_t len)
{
    fuzz_text text, saved;
    char end[GW__END_LEN + 1], foreign[GW__END_LEN + 1];
    uint32_t settings = len ? bytes[0] : 0;
    gw_client *gw;
    int taken;
    if (len == 0 || len > 8192) return;
    input_has_token = fuzz_has(bytes, len, "thisToken");
    memset(&text, 0, sizeof text);
    memset(&memory, 0, sizeof memory);
    saved = text;
    fuzz_add(&text, bytes + 1, len - 1);
    if (settings & 1) {
        fuzz_add(&text, foreign, seal_of((const char *)bytes + 1, len - 1, TOKEN "2", foreign));
        gw = open_client(settings);
        FUZZ_CHECK(!load(gw, (const char *)text.bytes, text.len));      /* of another bot */
        gw_close(gw);
        text.len = len - 1;
        fuzz_add(&text, end, seal_of((const char *)bytes + 1, len - 1, TOKEN, end));
    }
    gw = open_client(settings);
    taken = load(gw, (const char *)text.bytes, text.len);
    if (!(settings & 1)) FUZZ_CHECK(!taken);
    save(gw, &saved);
    if (taken || !(settings & 4)) taken_again(settings, &saved);
    if (saved.len) refused_when_touched(settings, &saved);
    gw_close(gw);
    FUZZ_CHECK(memory.live_blocks == 0 && memory.live_bytes == 0);
    fuzz_free(&text);
    fuzz_free(&saved);
}
