/* What a trace shows. Input: the seed of a cut, a text. Valid JSON must stay valid, all its values must stay what they
 * were but the strings behind "token" and "session_id", which must be "***"; a payload that was cut shows nothing that
 * the whole one does not. And whatever stands around it, the bot's own token leaves no log line. */
#include "fuzz.h"
#include "json_oracle.h"

#define TOKEN "MTA5ODc2NTQz.GabcDE.thisTokenMustNeverBeSeen"

static void redact(const char *text, size_t len, fuzz_text *out)
{
    fuzz_memory memory;
    gw__mem mem;
    gw__buf buf;
    memset(&memory, 0, sizeof memory);
    gw__mem_init(&mem, fuzz_alloc, &memory);
    gw__buf_init(&buf, &mem, SIZE_MAX / 2);
    FUZZ_CHECK(gw__json_redact(&buf, text, len));
    fuzz_add(out, gw__buf_data(&buf), gw__buf_len(&buf));
    gw__buf_free(&buf);
    FUZZ_CHECK(memory.live_blocks == 0);
}

#ifdef FUZZ_ORACLE
static int is_secret(const char *key)
{
    return strcmp(key, "token") == 0 || strcmp(key, "session_id") == 0;
}

/* The same tree, but for the secrets. */
static void same_but_secrets(json_t *in, json_t *out)
{
    size_t i;
    const char *key;
    json_t *value;
    FUZZ_CHECK(json_typeof(in) == json_typeof(out));
    if (json_is_array(in)) {
        FUZZ_CHECK(json_array_size(in) == json_array_size(out));
        for (i = 0; i < json_array_size(in); i++)
            same_but_secrets(json_array_get(in, i), json_array_get(out, i));
    } else if (json_is_object(in)) {
        FUZZ_CHECK(json_object_size(in) == json_object_size(out));
        json_object_foreach(in, key, value) {
            json_t *shown = json_object_get(out, key);
            FUZZ_CHECK(shown != NULL);
            if (is_secret(key) && json_is_string(value))
                FUZZ_CHECK(json_is_string(shown) && strcmp(json_string_value(shown), "***") == 0);
            else
                same_but_secrets(value, shown);
        }
    } else {
        FUZZ_CHECK(json_equal(in, out));
    }
}
#endif

static fuzz_text logged;
static void on_log(void *user, uint32_t level, int32_t shard, const char *text)
{
    (void)user; (void)level; (void)shard;
    logged.len = 0;
    fuzz_add(&logged, text, strlen(text));
}

static void log_it(const char *text, size_t len, uint64_t seed)
{
    gw__logger logger;
    size_t front = len ? (size_t)(fuzz_random(&seed) % len) : 0;
    char *line = (char *)malloc(len + 2 * sizeof TOKEN + 1);
    memset(&logger, 0, sizeof logger);
    logger.hook = on_log;
    logger.level = GW_LOG_TRACE;
    logger.secret = TOKEN;
    if (front) memcpy(line, text, front);
    memcpy(line + front, TOKEN, sizeof TOKEN - 1);
    if (len) memcpy(line + front + sizeof TOKEN - 1, text + front, len - front);
    line[len + sizeof TOKEN - 1] = 0;
    gw__log(&logger, GW_LOG_INFO, 0, "%s", line);
    FUZZ_CHECK(!fuzz_has(logged.bytes, logged.len, TOKEN) && logged.len < 512);
    if (len && !memchr(text, 0, len)) FUZZ_CHECK(!fuzz_has(logged.bytes, logged.len, "thisToken") ||
                                                fuzz_has(text, len, "thisToken"));
    gw__log_text(&logger, GW_LOG_TRACE, 0, line);
    FUZZ_CHECK(!fuzz_has(logged.bytes, logged.len, TOKEN));
    free(line);
}

static void fuzz_one(const uint8_t *bytes, size_t len)
{
    fuzz_text whole, part, again;
    uint64_t seed = len ? bytes[0] + 1u : 1;
    size_t cut;
    char *text;
    if (len < 2) return;
    text = fuzz_copy(bytes + 1, len - 1);
    len--;
    memset(&whole, 0, sizeof whole);
    part = again = whole;
    redact(text, len, &whole);
    redact(whole.len ? (const char *)whole.bytes : "", whole.len, &again);
    FUZZ_CHECK(fuzz_same(&whole, &again));
    cut = (size_t)(fuzz_random(&seed) % (len + 1));
    redact(text, cut, &part);
    if (gw__json_is_valid(text, len)) {
        FUZZ_CHECK(gw__json_is_valid((const char *)whole.bytes, whole.len));
        FUZZ_CHECK(part.len <= whole.len);
        FUZZ_CHECK(part.len == 0 || memcmp(part.bytes, whole.bytes, part.len) == 0);
    }
#ifdef FUZZ_ORACLE
    {
        enum verdict verdict;
        json_t *in = oracle_load(text, len, JSON_REJECT_DUPLICATES, &verdict);
        json_t *out = NULL;
        if (in) out = oracle_load((const char *)whole.bytes, whole.len, JSON_REJECT_DUPLICATES,
                                  &verdict);
        if (in) FUZZ_CHECK(out != NULL);
        if (in) same_but_secrets(in, out);
        json_decref(in);
        json_decref(out);
    }
#endif
    log_it(text, len, seed);
    fuzz_free(&whole);
    fuzz_free(&part);
    fuzz_free(&again);
    free(text);
}
