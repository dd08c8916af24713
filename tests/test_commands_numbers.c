/* What the library reads for its caller and tells of itself: the typed views of READY and of
 * RATE_LIMITED, the numbers of gw_stats_read(), the same as Prometheus text. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "commands.h"

static char page[32768];

/* ---- typed views ---- */
static gw_json json_of(const char *text)
{
    gw_json v;
    memset(&v, 0, sizeof v);
    v.ptr = text;
    v.len = text ? strlen(text) : 0;
    return v;
}

TEST(view_of_ready_has_what_the_gateway_said)
{
    static const char text[] =
        "{\"v\":10,\"user\":{\"id\":\"18446744073709551615\"},\"guilds\":[1,2],"
        "\"session_id\":\"ab\\u0063\",\"resume_gateway_url\":\"wss:\\/\\/x\",\"shard\":[3,16],"
        "\"application\":{\"id\":\"7\",\"flags\":1}}";
    gw_json d = json_of(text);
    gw_ready ready;
    CHECK_EQ(gw_read_ready(&d, &ready), 1);
    CHECK_U64(ready.user_id, UINT64_MAX);
    CHECK_U64(ready.application_id, 7);
    CHECK_U64(ready.version, 10);
    CHECK_EQ(ready.shard, 3);
    CHECK_EQ(ready.shard_total, 16);
    CHECK_EQ(gw_is(&ready.session_id, NULL, "abc"), 1);
    CHECK_EQ(gw_is(&ready.resume_gateway_url, NULL, "wss://x"), 1);
    CHECK_U64(gw_u64(&ready.guilds, "1"), 2);
    CHECK_U64(gw_u64(&ready.user, "id"), UINT64_MAX);
}

TEST(view_of_ready_reads_what_is_odd_as_absent)
{
    static const char *const none[] = { NULL, "", "null", "[]", "7", "\"x\"", "true" };
    static const char *const odd[] = { "{}", "{\"shard\":[],\"user\":7,\"v\":\"x\"}",
        "{\"shard\":{\"0\":1},\"user\":null,\"v\":-1,\"application\":[]}",
        "{\"user\":{\"id\":[]},\"v\":1.5}",
        "{\"session_id\"" };
    gw_json d;
    gw_ready ready, zero;
    size_t i;
    memset(&zero, 0, sizeof zero);
    for (i = 0; i < COUNT(none); i++) {
        memset(&ready, 7, sizeof ready);
        d = json_of(none[i]);
        CHECK_EQ(gw_read_ready(&d, &ready), 0);
        CHECK(memcmp(&ready, &zero, sizeof zero) == 0);
    }
    for (i = 0; i < COUNT(odd); i++) {
        memset(&ready, 7, sizeof ready);
        d = json_of(odd[i]);
        gw_read_ready(&d, &ready);
        CHECK_U64(ready.user_id, 0);
        CHECK_U64(ready.application_id, 0);
        CHECK_U64(ready.version, 0);
        CHECK_EQ(ready.shard_total, 0);
        CHECK_EQ(gw_kind_of(&ready.session_id, NULL), GW_ABSENT);
    }
    d = json_of("{\"v\":99999999999,\"shard\":[4294967296,99999999999999]}");
    CHECK_EQ(gw_read_ready(&d, &ready), 1);
    CHECK(ready.shard >= 0 && ready.shard_total >= 0);
    CHECK_EQ(gw_read_ready(NULL, &ready), 0);
}

TEST(view_of_rate_limited_reads_whole_and_odd_ones)
{
    static const struct {
        const char *text;
        int32_t result;
        uint32_t opcode, ms;
        uint64_t guild_id;
    } rows[] = {
        { "{\"opcode\":8,\"retry_after\":12.5,\"meta\":{\"guild_id\":\"5\",\"nonce\":\"n\"}}",
          1, 8, 12500, 5 },
        { "{\"opcode\":8,\"retry_after\":30,\"meta\":{\"guild_id\":\"18446744073709551615\"}}",
          1, 8, 30000, UINT64_MAX },
        { "{\"opcode\":8,\"retry_after\":0}", 1, 8, 0, 0 },
        { "{\"opcode\":8,\"retry_after\":-3.5,\"meta\":{}}", 1, 8, 0, 0 },
        { "{\"opcode\":8,\"retry_after\":1e300,\"meta\":7}", 1, 8, 3600000, 0 },
        { "{\"opcode\":8,\"retry_after\":1e999}", 1, 8, 3600000, 0 },
        { "{\"opcode\":8,\"retry_after\":3600.001}", 1, 8, 3600000, 0 },
        { "{\"opcode\":31,\"retry_after\":0.25,\"meta\":{\"guild_id\":[]}}", 1, 31, 250, 0 },
        { "{\"opcode\":8}", 0, 0, 0, 0 },
        { "{\"retry_after\":1}", 0, 0, 0, 0 },
        { "{\"opcode\":\"8\",\"retry_after\":1}", 0, 0, 0, 0 },
        { "{\"opcode\":8,\"retry_after\":\"1\"}", 0, 0, 0, 0 },
        { "{\"opcode\":8,\"retry_after\":null}", 0, 0, 0, 0 },
        { "[8,1]", 0, 0, 0, 0 }, { "null", 0, 0, 0, 0 }, { "", 0, 0, 0, 0 }, { NULL, 0, 0, 0, 0 }
    };
    gw_rate_limited limited;
    size_t i;
    for (i = 0; i < COUNT(rows); i++) {
        gw_json d = json_of(rows[i].text);
        int before = check_failures;
        memset(&limited, 7, sizeof limited);
        CHECK_EQ(gw_read_rate_limited(&d, &limited), rows[i].result);
        CHECK_U64(limited.opcode, rows[i].opcode);
        CHECK_U64(limited.retry_after_ms, rows[i].ms);
        CHECK_U64(limited.guild_id, rows[i].guild_id);
        if (i) CHECK_EQ(gw_kind_of(&limited.nonce, NULL), GW_ABSENT);
        else CHECK_EQ(gw_is(&limited.nonce, NULL, "n"), 1);
        if (check_failures != before)
            fprintf(stderr, "    in: %s\n", rows[i].text ? rows[i].text : "NULL");
    }
    CHECK_EQ(gw_read_rate_limited(NULL, &limited), 0);
}

/* ---- numbers ---- */
static void begin_numbers(void)
{
    int i;
    init_two();
    w.sim.event_rate = 3;
    begin_two();
    CHECK_EQ(gw_want(w.gw, GW_TYPING_START, 0), GW_OK);
    for (i = 0; i < 7; i++) CHECK(gw_set_voice(w.gw, guild((uint32_t)(i != 3)), 0, 0, 0) > 0);
    world_advance(&w, 100000);
}

/* What stands behind a metric's name and label; UINT64_MAX: no such line. */
static uint64_t metric(const char *name, const char *label)
{
    char mark[100];
    const char *at;
    snprintf(mark, sizeof mark, "\ndiscord_gateway_%s%s ", name, label);
    at = strstr(page, mark);
    return at ? strtoull(at + strlen(mark), NULL, 10) : UINT64_MAX;
}

TEST(stats_of_all_are_the_sum_of_the_shards)
{
    gw_stats all, one, sum;
    int32_t i;
    begin_numbers();
    memset(&sum, 0, sizeof sum);
    for (i = 0; i < 2; i++) {
        CHECK_EQ(gw_stats_read(w.gw, i, &one), GW_OK);
        CHECK(one.events > 0 && one.heartbeats > 0 && one.sends > one.heartbeats);
#define ADD(field) sum.field += one.field
        ADD(events); ADD(filtered); ADD(skipped); ADD(wire_bytes_in); ADD(wire_bytes_out);
        ADD(payload_bytes); ADD(heartbeats); ADD(acks); ADD(connects); ADD(resumes);
        ADD(identifies); ADD(sends); ADD(send_queue); ADD(sends_dropped); ADD(polls_late);
#undef ADD
    }
    CHECK_EQ(gw_stats_read(w.gw, GW_ALL, &all), GW_OK);
#define SAME(field) CHECK_U64(all.field, sum.field)
    SAME(events); SAME(filtered); SAME(skipped); SAME(wire_bytes_in); SAME(wire_bytes_out);
    SAME(payload_bytes); SAME(heartbeats); SAME(acks); SAME(connects); SAME(resumes);
    SAME(identifies); SAME(sends); SAME(send_queue); SAME(sends_dropped); SAME(polls_late);
#undef SAME
    CHECK_U64(all.identifies, 2);
    CHECK_U64(all.identifies_left, one.identifies_left);        /* of the client, not of a shard */
    CHECK_U64(all.memory_now, w.live_bytes);
    CHECK_EQ(gw_stats_read(w.gw, 2, &all), GW_ERROR_NOT_OUR_SHARD);
    CHECK_HAS(gw_why(w.gw), "gw_stats_read");
    CHECK_U64(all.events, 0);
    CHECK_EQ(gw_stats_read(w.gw, 0, NULL), GW_ERROR_ARGUMENT);
    CHECK_HAS(gw_why(w.gw), "NULL");
    world_end(&w);
}

TEST(stats_text_says_the_same_numbers)
{
    gw_stats all, one[2];
    char label[40];
    int32_t i;
    begin_numbers();
    CHECK(gw_stats_text(w.gw, page, sizeof page) < sizeof page);
    gw_stats_read(w.gw, GW_ALL, &all);
    for (i = 0; i < 2; i++) {
        gw_stats_read(w.gw, i, &one[i]);
        snprintf(label, sizeof label, "{shard=\"%d\"}", (int)i);
        CHECK_U64(metric("live", label), 1);
        CHECK_U64(metric("events_total", label), one[i].events);
        CHECK_U64(metric("filtered_total", label), one[i].filtered);
        CHECK_U64(metric("payload_bytes_total", label), one[i].payload_bytes);
        CHECK_U64(metric("heartbeats_total", label), one[i].heartbeats);
        CHECK_U64(metric("sends_total", label), one[i].sends);
        CHECK_U64(metric("identifies_total", label), 1);
    }
    CHECK_U64(metric("events_total", "{shard=\"0\"}") + metric("events_total", "{shard=\"1\"}"),
              all.events);
    CHECK_U64(metric("identifies_left", ""), all.identifies_left);
    CHECK_U64(metric("memory_bytes", ""), all.memory_now);
    CHECK_U64(metric("identifies_left", "{shard=\"0\"}"), UINT64_MAX);
    CHECK_U64(metric("events_total", "{shard=\"2\"}"), UINT64_MAX);
    world_end(&w);
}

/* Prometheus docs, "Text-based format": HELP, TYPE, then the samples of that name together. */
static char metrics_seen[4000];

static void check_line(const char *line, char *name, char *help)
{
    char word[100], type[20], mark[110], value[40], label[40];
    const char *rest;
    if (sscanf(line, "# HELP %99s %c", word, value) == 2) {
        snprintf(mark, sizeof mark, " %s ", word);
        CHECK(strstr(metrics_seen, mark) == NULL);              /* once */
        strcat(metrics_seen, mark);
        strcpy(help, word);
        return;
    }
    if (sscanf(line, "# TYPE %99s %19s", word, type) == 2) {
        CHECK_TEXT(word, help);
        CHECK(strcmp(name, word) != 0);
        CHECK(strcmp(type, "counter") == 0 || strcmp(type, "gauge") == 0);
        CHECK_EQ(strcmp(type, "counter") == 0,
                 strlen(word) > 6 && strcmp(word + strlen(word) - 6, "_total") == 0);
        strcpy(name, word);
        return;
    }
    CHECK(strncmp(line, name, strlen(name)) == 0);
    rest = line + strlen(name);
    label[0] = 0;
    if (*rest == '{') {
        CHECK_EQ(sscanf(rest, "{shard=\"%39[0-9]\"} %39[0-9.]", label, value), 2);
        CHECK_U64(strlen(rest), strlen("{shard=\"\"} ") + strlen(label) + strlen(value));
    } else {
        CHECK_EQ(sscanf(rest, " %39[0-9.]", value), 1);
        CHECK_U64(strlen(rest), 1 + strlen(value));
    }
}

TEST(stats_text_is_valid_prometheus_text)
{
    char name[100] = "", help[100] = "", line[300];
    const char *at, *end;
    uint32_t lines = 0;
    begin_numbers();
    metrics_seen[0] = 0;
    gw_stats_text(w.gw, page, sizeof page);
    for (at = page; (end = strchr(at, '\n')) != NULL; at = end + 1, lines++) {
        int before = check_failures;
        if (!CHECK((size_t)(end - at) < sizeof line)) break;
        memcpy(line, at, (size_t)(end - at));
        line[end - at] = 0;
        check_line(line, name, help);
        if (check_failures != before) fprintf(stderr, "    in: %s\n", line);
    }
    CHECK_EQ(*at, 0);                           /* the last line ends too */
    CHECK(lines > 70);
    world_end(&w);
}

TEST(stats_text_is_cut_as_snprintf_cuts)
{
    static char part[32768];
    size_t len, cap;
    begin_numbers();
    len = gw_stats_text(w.gw, page, sizeof page);
    CHECK_U64(strlen(page), len);
    CHECK_U64(gw_stats_text(w.gw, NULL, 0), len);
    for (cap = 1; cap <= len + 2; cap += cap < 300 || cap + 300 > len ? 1 : 97) {
        memset(part, '#', cap + 1);
        CHECK_U64(gw_stats_text(w.gw, part, cap), len);
        CHECK(memcmp(part, page, cap - 1 < len ? cap - 1 : len) == 0);
        CHECK_EQ(part[cap - 1 < len ? cap - 1 : len], 0);
        CHECK_EQ(part[cap], '#');
    }
    world_end(&w);
}

CHECK_MAIN()
