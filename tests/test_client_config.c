/* Configs that are wrong: each comes out as FATAL with a sentence a person can act on, then CLOSED, and nobody is
 * dialled. And what becomes of those that are right. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "world.h"

static world w;

/* ---- bad configs: each is FATAL with a sentence, then CLOSED, and nobody is dialled ---- */
static void check_refused(const char *words)
{
    const world_event *fatal;
    world_begin(&w, NULL);
    if (!w.gw) { world_end(&w); return; }
    fatal = WORLD_EXPECT(&w, GW_FATAL, 10);
    CHECK_EQ(fatal->reason, GW_REASON_CONFIG);
    CHECK_EQ(fatal->shard, GW_ALL);
    CHECK_HAS(fatal->message, words);
    WORLD_EXPECT(&w, GW_CLOSED, 10);
    CHECK_EQ(gw_alive(w.gw), 0);
    world_advance(&w, 100000);
    CHECK_U64(w.opens, 0);
    CHECK_U64(w.event_count, 2);
    world_end(&w);
}

TEST(config_without_a_token_is_refused)
{
    static const char *const tokens[] = { NULL, "", "   ", "\n", "Bot ", "Bot   ", "bot \n" };
    size_t i;
    for (i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        world_init(&w);
        w.cfg.token = tokens[i];
        check_refused("token");
    }
}

TEST(config_token_that_is_none_is_refused_without_showing_it)
{
    char long_token[2000];
    static const char *const tokens[] = { "thisTokenMustNeverBeSeen with blanks", "thisTokenMustNeverBeSeen\nx",
        "\xC3\xA4thisTokenMustNeverBeSeen",
                                          "thisTokenMustNeverBeSeen\x7F" };
    size_t i;
    for (i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        world_init(&w);
        w.cfg.token = tokens[i];
        check_refused("token");
    }
    memset(long_token, 'x', sizeof long_token);
    long_token[sizeof long_token - 1] = 0;
    world_init(&w);
    w.cfg.token = long_token;
    check_refused("too long");
}

TEST(config_token_is_stripped_of_what_is_pasted_with_it)
{
    static const char *const tokens[] = { "Bot " WORLD_TOKEN, WORLD_TOKEN "\n", "  " WORLD_TOKEN "\r\n",
        "bot " WORLD_TOKEN, "Bot  " WORLD_TOKEN " ", "\tBot " WORLD_TOKEN };
    size_t i;
    for (i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        world_init(&w);
        w.cfg.token = tokens[i];
        world_begin(&w, NULL);                      /* the gateway refuses every other token with 4004 */
        WORLD_EXPECT(&w, GW_READY, 1000);
        world_end(&w);
    }
}

TEST(config_wrong_token_is_fatal_and_not_retried)
{
    world_init(&w);
    w.cfg.token = "wrong.thisTokenMustNeverBeSeen.token";
    w.violations_expected = 1;
    world_begin(&w, NULL);
    CHECK_HAS(WORLD_EXPECT(&w, GW_FATAL, 1000)->message, "Developer Portal");
    WORLD_EXPECT(&w, GW_CLOSED, 6000);
    world_advance(&w, 3600000);
    CHECK_U64(w.opens, 1);
    world_end(&w);
}

TEST(config_undefined_intents_are_refused_before_the_wire)
{
    static const uint32_t intents[] = { UINT32_MAX, 1u << 17, 1u << 31, 1u << 22, 1u << 26 };
    size_t i;
    for (i = 0; i < sizeof intents / sizeof intents[0]; i++) {
        world_init(&w);
        w.cfg.intents = intents[i];
        check_refused("intents");
    }
}

TEST(config_no_intents_are_a_real_value)
{
    world_init(&w);
    w.cfg.intents = 0;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_U64(world_number(&w, WORLD_EV("identify"), 0, "intents"), 0);
    world_end(&w);
}

TEST(config_disallowed_intents_name_the_portal)
{
    world_init(&w);
    w.sim.denied_intents = GW_INTENT_MESSAGE_CONTENT;
    w.violations_expected = 1;
    world_begin(&w, NULL);
    CHECK_HAS(WORLD_EXPECT(&w, GW_FATAL, 1000)->message, "Developer Portal");
    CHECK_EQ(world_last(&w, GW_FATAL)->close_code, 4014);
    world_end(&w);
}

TEST(config_urls_that_are_none_are_refused)
{
    static const struct { const char *url, *words; } cases[] = {
        { "", "" }, { "nonsense", "" }, { "gateway.discord.gg", "" }, { "http://127.0.0.1/", "" },
            { "https://gateway.discord.gg/", "" },
        { "ftp://gateway.discord.gg", "" }, { "ws://gateway.discord.gg/", "token" }, { "ws://192.168.0.1/", "token" },
            { "wss://", "" },
        { "wss://a:b@gateway.discord.gg/", "" }, { "wss://host:0/", "" }, { "wss://host:65536/", "" }, { "wss://host/#x",
            "" },
        { "wss://ho st/", "" }, { "ws://localhost.evil.example/", "token" }, { "ws://127.0.0.1.evil.example/", "token" },
            { "ws://0.0.0.0/", "" }
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int failures = check_failures;
        world_init(&w);
        w.cfg.url = cases[i].url;
        check_refused(cases[i].words);
        if (check_failures != failures) fprintf(stderr, "    %s\n", cases[i].url);
    }
}

/* A path may be long as far as the version and the encoding fit behind it. */
TEST(config_url_with_a_long_path_is_taken_whole_or_refused)
{
    char url[GW__PATH_MAX + 64], path[GW__PATH_MAX + 32];
    size_t len, taken = 0, refused = 0;
    memset(path, 'p', sizeof path);
    for (len = GW__PATH_MAX - 64; len < sizeof path; len++) {
        world_init(&w);
        snprintf(url, sizeof url, "ws://127.0.0.1/%.*s", (int)len, path);
        w.cfg.url = url;
        w.any_violations = 1;                       /* this gateway is at "/" */
        world_begin(&w, NULL);
        world_settle(&w);
        if (w.opens) {
            taken++;
            CHECK_U64(refused, 0);
            snprintf(url, sizeof url, "/%.*s?v=10&encoding=json", (int)len, path);
            CHECK_HAS(world_last(&w, GW_CONNECTING)->message, url);
        } else {
            refused++;
            CHECK_EQ(world_last(&w, GW_FATAL)->reason, GW_REASON_CONFIG);
            CHECK_HAS(world_last(&w, GW_FATAL)->message, "has a path ");
        }
        world_end(&w);
    }
    CHECK(taken > 20);
    CHECK(refused > 40);
}

TEST(config_plain_urls_of_loopback_hosts_are_taken)
{
    static const char *const urls[] = { "ws://127.0.0.1", "ws://127.0.0.1:8080/", "ws://localhost/", "ws://[::1]:9000/",
        "ws://127.9.8.7/?v=9" };
    size_t i;
    for (i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        world_init(&w);
        w.cfg.url = urls[i];
        world_begin(&w, NULL);
        if (WORLD_EXPECT(&w, GW_READY, 1000)->type != GW_READY) fprintf(stderr, "    %s\n", urls[i]);
        CHECK_HAS(world_last(&w, GW_CONNECTING)->message, "v=10&encoding=json");
        world_end(&w);
    }
}

TEST(config_numbers_out_of_range_are_refused)
{
    world_init(&w);
    w.cfg.large_threshold = 49;
    check_refused("large_threshold");
    world_init(&w);
    w.cfg.large_threshold = 251;
    check_refused("large_threshold");
    world_init(&w);
    w.cfg.shard_first = 2;
    w.cfg.shard_count = 1;
    w.cfg.shard_total = 2;
    check_refused("shard");
    world_init(&w);
    w.cfg.shard_first = -1;
    w.cfg.shard_count = 1;
    w.cfg.shard_total = 2;
    check_refused("shard");
    world_init(&w);
    w.cfg.shard_first = INT32_MAX;
    w.cfg.shard_count = INT32_MAX;
    w.cfg.shard_total = INT32_MAX;
    check_refused("shard");
    world_init(&w);
    w.cfg.shard_count = -7;
    check_refused("shard");
    world_init(&w);
    w.cfg.shard_first = 1;
    check_refused("shard");
    world_init(&w);
    w.cfg.compress = 7;
    check_refused("compress");
    world_init(&w);
    w.cfg.proxy = "http://127.0.0.1:1";
    check_refused("proxy");
}

TEST(config_bad_presence_is_refused)
{
    gw_presence presence;
    gw_activity activity;
    char long_name[6000];
    memset(&presence, 0, sizeof presence);
    memset(&activity, 0, sizeof activity);
    presence.status = "away";
    world_init(&w);
    w.cfg.presence = &presence;
    check_refused("presence");
    presence.status = NULL;
    presence.activities = &activity;
    presence.activity_count = 1;
    world_init(&w);
    w.cfg.presence = &presence;
    check_refused("name");
    memset(long_name, 'x', sizeof long_name);
    long_name[sizeof long_name - 1] = 0;
    activity.name = long_name;
    world_init(&w);
    w.cfg.presence = &presence;
    check_refused("4,096");
}

TEST(config_presence_and_threshold_go_into_identify)
{
    gw_presence presence;
    gw_activity activity;
    memset(&presence, 0, sizeof presence);
    memset(&activity, 0, sizeof activity);
    activity.name = "chess \"\xE2\x99\x9E\"";
    presence.activities = &activity;
    presence.activity_count = 1;
    world_init(&w);
    w.cfg.presence = &presence;
    w.cfg.large_threshold = 250;
    world_begin(&w, NULL);
    activity.name = NULL;                           /* everything was copied */
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), "\"presence\":true"), 1);
    world_do(&w, "op9 false");                      /* a new session says it again */
    WORLD_EXPECT(&w, GW_READY, 10000);
    CHECK_U64(world_count(&w, WORLD_EV("identify"), "\"presence\":true"), 2);
    world_end(&w);
}

TEST(config_texts_are_copied)
{
    char token[200], url[100];
    world_init(&w);
    strcpy(token, WORLD_TOKEN);
    strcpy(url, "ws://127.0.0.1/");
    w.cfg.token = token;
    w.cfg.url = url;
    world_begin(&w, NULL);
    memset(token, 'x', sizeof token - 1);
    memset(url, 'x', sizeof url - 1);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    w.cfg.token = WORLD_TOKEN;
    world_end(&w);
}

TEST(config_of_nothing_at_all_is_refused)
{
    gw_config none;
    gw_client *gw = gw_open(NULL);
    uint32_t type = 0;
    const gw_event *event;
    if (CHECK(gw != NULL)) {
        event = gw_poll(gw);
        if (CHECK(event != NULL)) type = event->type;
        CHECK_EQ(type, GW_FATAL);
        event = gw_poll(gw);
        CHECK(event != NULL && event->type == GW_CLOSED);
    }
    gw_close(gw);
    memset(&none, 0, sizeof none);
    gw = gw_open_sized(&none, sizeof none.token);   /* an older program's smaller config */
    if (CHECK(gw != NULL)) CHECK(gw_poll(gw) != NULL);
    gw_close(gw);
}

CHECK_MAIN()
