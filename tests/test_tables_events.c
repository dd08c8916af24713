/* The 79 dispatches and the 21 intents, each by a table of our own; and what is said of numbers,
 * ids and times in what Discord sends. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "world.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))
static world w;

static void begin_live(const char *script)
{
    world_init(&w);
    world_begin(&w, script);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
}

/* ---- Discord docs, "Receive Events": in the order of their numbers, with the bits of the intents
 * that bring them; 0: always sent ---- */
#define B(bit) (UINT32_C(1) << (bit))
#define EVENTS(X) \
    X(READY, 0) X(RESUMED, 0) X(RATE_LIMITED, 0) X(APPLICATION_COMMAND_PERMISSIONS_UPDATE, 0) \
    X(AUTO_MODERATION_RULE_CREATE, B(20)) X(AUTO_MODERATION_RULE_UPDATE, B(20)) \
    X(AUTO_MODERATION_RULE_DELETE, B(20)) X(AUTO_MODERATION_ACTION_EXECUTION, B(21)) \
    X(CHANNEL_CREATE, B(0)) X(CHANNEL_UPDATE, B(0)) X(CHANNEL_DELETE, B(0)) X(CHANNEL_INFO, 0) \
    X(CHANNEL_PINS_UPDATE, B(0) | B(12)) X(THREAD_CREATE, B(0)) X(THREAD_UPDATE, B(0)) \
    X(THREAD_DELETE, B(0)) X(THREAD_LIST_SYNC, B(0)) X(THREAD_MEMBER_UPDATE, B(0)) \
    X(THREAD_MEMBERS_UPDATE, B(0) | B(1)) X(ENTITLEMENT_CREATE, 0) X(ENTITLEMENT_UPDATE, 0) \
    X(ENTITLEMENT_DELETE, 0) X(GUILD_CREATE, B(0)) X(GUILD_UPDATE, B(0)) X(GUILD_DELETE, B(0)) \
    X(GUILD_AUDIT_LOG_ENTRY_CREATE, B(2)) X(GUILD_BAN_ADD, B(2)) X(GUILD_BAN_REMOVE, B(2)) \
    X(GUILD_EMOJIS_UPDATE, B(3)) X(GUILD_STICKERS_UPDATE, B(3)) \
    X(GUILD_INTEGRATIONS_UPDATE, B(4)) X(GUILD_MEMBER_ADD, B(1)) X(GUILD_MEMBER_REMOVE, B(1)) \
    X(GUILD_MEMBER_UPDATE, B(1)) X(GUILD_MEMBERS_CHUNK, 0) X(GUILD_ROLE_CREATE, B(0)) \
    X(GUILD_ROLE_UPDATE, B(0)) X(GUILD_ROLE_DELETE, B(0)) X(GUILD_SCHEDULED_EVENT_CREATE, B(16)) \
    X(GUILD_SCHEDULED_EVENT_UPDATE, B(16)) X(GUILD_SCHEDULED_EVENT_DELETE, B(16)) \
    X(GUILD_SCHEDULED_EVENT_USER_ADD, B(16)) X(GUILD_SCHEDULED_EVENT_USER_REMOVE, B(16)) \
    X(GUILD_SOUNDBOARD_SOUND_CREATE, B(3)) X(GUILD_SOUNDBOARD_SOUND_UPDATE, B(3)) \
    X(GUILD_SOUNDBOARD_SOUND_DELETE, B(3)) X(GUILD_SOUNDBOARD_SOUNDS_UPDATE, B(3)) \
    X(SOUNDBOARD_SOUNDS, 0) X(INTEGRATION_CREATE, B(4)) X(INTEGRATION_UPDATE, B(4)) \
    X(INTEGRATION_DELETE, B(4)) X(INTERACTION_CREATE, 0) X(INVITE_CREATE, B(6)) \
    X(INVITE_DELETE, B(6)) X(MESSAGE_CREATE, B(9) | B(12)) X(MESSAGE_UPDATE, B(9) | B(12)) \
    X(MESSAGE_DELETE, B(9) | B(12)) X(MESSAGE_DELETE_BULK, B(9)) \
    X(MESSAGE_REACTION_ADD, B(10) | B(13)) X(MESSAGE_REACTION_REMOVE, B(10) | B(13)) \
    X(MESSAGE_REACTION_REMOVE_ALL, B(10) | B(13)) \
    X(MESSAGE_REACTION_REMOVE_EMOJI, B(10) | B(13)) X(PRESENCE_UPDATE, B(8)) \
    X(STAGE_INSTANCE_CREATE, B(0)) X(STAGE_INSTANCE_UPDATE, B(0)) X(STAGE_INSTANCE_DELETE, B(0)) \
    X(SUBSCRIPTION_CREATE, 0) X(SUBSCRIPTION_UPDATE, 0) X(SUBSCRIPTION_DELETE, 0) \
    X(TYPING_START, B(11) | B(14)) X(USER_UPDATE, 0) X(VOICE_CHANNEL_EFFECT_SEND, B(7)) \
    X(VOICE_CHANNEL_START_TIME_UPDATE, B(0)) X(VOICE_CHANNEL_STATUS_UPDATE, B(0)) \
    X(VOICE_STATE_UPDATE, B(7)) X(VOICE_SERVER_UPDATE, 0) X(WEBHOOKS_UPDATE, B(5)) \
    X(MESSAGE_POLL_VOTE_ADD, B(24) | B(25)) X(MESSAGE_POLL_VOTE_REMOVE, B(24) | B(25))

typedef struct event_row { uint32_t type; const char *name; uint32_t bits; } event_row;
#define EVENT_ROW(name, bits) { GW_##name, #name, bits },
static const event_row events[] = { EVENTS(EVENT_ROW) };
enum { EVENT_COUNT = LENGTH(events) };

/* ---- Discord docs, "List of Intents": bit, value, privileged, how many events name it ---- */
typedef struct intent_row {
    const char *name;
    uint32_t value, bit, number, privileged, brings;
} intent_row;
#define INTENT(name, bit, number, privileged, brings) \
    { #name, GW_INTENT_##name, bit, number, privileged, brings }
static const intent_row intents[] = {
    INTENT(GUILDS, 0, 1, 0, 21), INTENT(GUILD_MEMBERS, 1, 2, 1, 4),
    INTENT(GUILD_MODERATION, 2, 4, 0, 3), INTENT(GUILD_EXPRESSIONS, 3, 8, 0, 6),
    INTENT(GUILD_INTEGRATIONS, 4, 16, 0, 4),
    INTENT(GUILD_WEBHOOKS, 5, 32, 0, 1), INTENT(GUILD_INVITES, 6, 64, 0, 2),
    INTENT(GUILD_VOICE_STATES, 7, 128, 0, 2), INTENT(GUILD_PRESENCES, 8, 256, 1, 1),
    INTENT(GUILD_MESSAGES, 9, 512, 0, 4), INTENT(GUILD_MESSAGE_REACTIONS, 10, 1024, 0, 4),
    INTENT(GUILD_MESSAGE_TYPING, 11, 2048, 0, 1), INTENT(DIRECT_MESSAGES, 12, 4096, 0, 4),
    INTENT(DIRECT_MESSAGE_REACTIONS, 13, 8192, 0, 4),
    INTENT(DIRECT_MESSAGE_TYPING, 14, 16384, 0, 1), INTENT(MESSAGE_CONTENT, 15, 32768, 1, 0),
    INTENT(GUILD_SCHEDULED_EVENTS, 16, 65536, 0, 5),
    INTENT(AUTO_MODERATION_CONFIGURATION, 20, 1048576, 0, 3),
    INTENT(AUTO_MODERATION_EXECUTION, 21, 2097152, 0, 1),
    INTENT(GUILD_MESSAGE_POLLS, 24, 16777216, 0, 2),
    INTENT(DIRECT_MESSAGE_POLLS, 25, 33554432, 0, 2)
};
enum { INTENT_COUNT = LENGTH(intents) };

static const event_row *row_of(const char *name)
{
    size_t i;
    for (i = 0; i < EVENT_COUNT; i++) if (!strcmp(events[i].name, name)) return &events[i];
    return NULL;
}

/* ---- names and numbers ---- */
TEST(events_are_79_with_a_number_and_a_name_each)
{
    size_t i, always = 0;
    CHECK_EQ(EVENT_COUNT, 79);
    for (i = 0; i < EVENT_COUNT; i++) {
        CHECK_U64(events[i].type, i + 1);           /* for ever: other languages keep them */
        CHECK_TEXT(gw_name_of(events[i].type), events[i].name);
        CHECK(row_of(events[i].name) == &events[i]);
        CHECK(events[i].type < GW_GATEWAY_INFO);
        always += events[i].bits == 0;
    }
    CHECK_EQ(always, 16);
    CHECK(events[EVENT_COUNT - 1].type + 1 == GW_DISPATCH_END_);
    CHECK_TEXT(gw_name_of(GW_UNKNOWN_DISPATCH), "");
    CHECK_TEXT(gw_name_of(GW_DISPATCH_END_), "");
    CHECK_TEXT(gw_name_of(UINT32_MAX), "");
}

static void send_event(size_t i, char *d, size_t cap)
{
    char command[300];
    snprintf(d, cap, "{ \"n\" : %u,\"t\":\"READY\",\"op\":9,\"s\":77,"
             "\"text\":\"\\u00fc}\\\"\xE2\x98\x83\",\"d\":[null,-0.5e3,{ }]}", (unsigned)i);
    snprintf(command, sizeof command, "event %s %s", events[i].name, d);
    world_do(&w, command);
}

TEST(events_come_out_with_their_number_name_seq_and_raw_body)
{
    static const char *const ways[] = { NULL, "on accept one_byte", "on accept key_order",
                                        "on accept fragments 5" };
    size_t i, way;
    for (way = 0; way < LENGTH(ways); way++) {
        begin_live(ways[way]);
        for (i = 0; i < EVENT_COUNT; i++) {
            int failures = check_failures;
            char d[200];
            const world_event *event;
            send_event(i, d, sizeof d);
            event = WORLD_EXPECT(&w, events[i].type, 100);
            CHECK_TEXT(event->name, events[i].name);
            CHECK_TEXT(event->d, d);
            CHECK_U64(event->d_len, strlen(d));
            CHECK_U64(event->seq, 4 + i);
            CHECK_EQ(event->session, 1);    /* a READY that nobody asked for begins nothing */
            CHECK_EQ(event->shard, 0);
            CHECK_EQ(event->replayed, 0);
            CHECK(event->bytes > strlen(d));
            if (check_failures != failures) fprintf(stderr, "    %s\n", events[i].name);
        }
        CHECK_U64(world_count_events(&w, GW_UNKNOWN_DISPATCH), 0);
        CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
        CHECK_EQ(gw_shard_live(w.gw, 0), 1);
        world_end(&w);
    }
}

TEST(events_of_names_that_nobody_knows_pass_with_their_name)
{
    static const char *const names[] = {
        "X", "MESSAGE_CREATE_", "MESSAGE_CREAT", "MESSAGE", "message_create", "READY_",
        "GUILD_JOIN_REQUEST_UPDATE", "CHANNEL_TOPIC_UPDATE", "DISCONNECTED", "FATAL", "CLOSED",
        "A_NAME_OF_63_BYTES_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
    };
    size_t i;
    begin_live(NULL);
    for (i = 0; i < LENGTH(names); i++) {
        const world_event *event;
        char command[200];
        snprintf(command, sizeof command, "event %s {\"n\":%u}", names[i], (unsigned)i);
        world_do(&w, command);
        event = WORLD_EXPECT(&w, GW_UNKNOWN_DISPATCH, 100);
        CHECK_TEXT(event->name, names[i]);
        CHECK_U64(event->seq, 4 + i);
        CHECK_HAS(event->d, "{\"n\":");
    }
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    world_end(&w);
}

TEST(events_without_a_name_are_of_no_known_type)
{
    static const char *const ends[] = { "", ",\"t\":null", ",\"t\":\"\"" };
    size_t i;
    for (i = 0; i < LENGTH(ends); i++) {
        int failures = check_failures;
        char command[120];
        begin_live(NULL);
        snprintf(command, sizeof command, "raw {\"op\":0,\"s\":4,\"d\":{\"n\":1}%s}", ends[i]);
        world_do(&w, command);
        CHECK_TEXT(WORLD_EXPECT(&w, GW_UNKNOWN_DISPATCH, 100)->name, "");
        CHECK_U64(world_last(&w, GW_UNKNOWN_DISPATCH)->seq, 4);
        CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
        if (check_failures != failures) fprintf(stderr, "    %s\n", ends[i]);
        w.any_violations = 1;
        world_end(&w);
    }
}

/* t is a string or null: what else comes is no envelope, and the session survives it. */
TEST(events_whose_name_is_no_text_end_the_connection_and_not_the_session)
{
    static const char *const names[] = { "5", "[\"READY\"]", "{\"t\":\"READY\"}", "true" };
    size_t i;
    for (i = 0; i < LENGTH(names); i++) {
        char command[120];
        begin_live(NULL);
        snprintf(command, sizeof command, "raw {\"op\":0,\"s\":4,\"d\":{},\"t\":%s}", names[i]);
        world_do(&w, command);
        CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 100)->reason, GW_REASON_PROTOCOL);
        WORLD_EXPECT(&w, GW_RESUMED, 1000);
        CHECK_U64(world_number(&w, WORLD_EV("resume"), 0, "seq"), 3);   /* as if it had not come */
        world_end(&w);
    }
}

/* ---- what nobody wants ---- */
static uint64_t last_beat(void)
{
    size_t beats = world_count(&w, WORLD_EV("heartbeat"), NULL);
    return beats ? world_number(&w, WORLD_EV("heartbeat"), beats - 1, "d") : UINT64_MAX;
}

TEST(events_unwanted_are_not_handed_out_and_their_seq_counts)
{
    size_t i;
    gw_stats before, after;
    begin_live(NULL);
    for (i = 0; i < EVENT_COUNT; i++) {
        int failures = check_failures;
        char d[200], text[GW_SESSION_MAX], taken[40];
        size_t had = w.event_count;
        if (events[i].type == GW_READY || events[i].type == GW_RESUMED) {
            CHECK_EQ(gw_want(w.gw, events[i].type, 0), GW_ERROR_ARGUMENT);
            continue;
        }
        gw_stats_read(w.gw, GW_ALL, &before);
        CHECK_EQ(gw_want(w.gw, events[i].type, 0), GW_OK);
        send_event(i, d, sizeof d);
        world_do(&w, "op1");
        world_settle(&w);
        gw_stats_read(w.gw, GW_ALL, &after);
        CHECK_U64(w.event_count, had);
        CHECK_U64(after.filtered, before.filtered + 1);
        CHECK_U64(after.events, before.events);
        CHECK_U64(last_beat(), 2 * i);              /* two a row, from the third row on */
        gw_session_save(w.gw, GW_ALL, text, sizeof text);
        snprintf(taken, sizeof taken, "\n0 0 1 %u ", (unsigned)(2 * i));
        CHECK_HAS(text, taken);                     /* it counts as taken as well */
        CHECK_EQ(gw_want(w.gw, events[i].type, 1), GW_OK);
        send_event(i, d, sizeof d);
        CHECK_U64(WORLD_EXPECT(&w, events[i].type, 100)->seq, 2 * i + 1);
        world_advance(&w, 1000);
        if (check_failures != failures) fprintf(stderr, "    %s\n", events[i].name);
    }
    world_end(&w);
}

TEST(events_all_unwanted_leave_ready_and_resumed_and_a_whole_session)
{
    size_t i;
    char d[200];
    world_init(&w);
    world_begin(&w, NULL);
    for (i = 0; i < EVENT_COUNT; i++) gw_want(w.gw, events[i].type, 0);
    gw_want(w.gw, GW_UNKNOWN_DISPATCH, 0);
    WORLD_EXPECT(&w, GW_READY, 1000);
    for (i = 2; i < EVENT_COUNT; i++) send_event(i, d, sizeof d);
    world_do(&w, "unknown_event");
    world_settle(&w);
    CHECK_U64(world_last(&w, GW_READY)->seq, 1);
    CHECK_EQ(world_last(&w, GW_READY) - w.events, (int)w.event_count - 1);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(world_number(&w, WORLD_EV("resume"), 0, "seq"), 3 + 77 + 1);
    world_do(&w, "op9 false");
    CHECK_EQ(WORLD_EXPECT(&w, GW_READY, 10000)->session, 2);
    world_end(&w);
}

TEST(events_unknown_unwanted_leave_those_with_a_number)
{
    begin_live(NULL);
    CHECK_EQ(gw_want(w.gw, GW_UNKNOWN_DISPATCH, 0), GW_OK);
    world_do(&w, "unknown_event");
    world_do(&w, "event MESSAGE_CREATED {}");
    world_do(&w, "event MESSAGE_CREATE {}");
    CHECK_U64(WORLD_EXPECT(&w, GW_MESSAGE_CREATE, 100)->seq, 6);
    CHECK_U64(world_count_events(&w, GW_UNKNOWN_DISPATCH), 0);
    world_end(&w);
}

/* ---- intents ---- */
typedef struct header_intent { const char *name; uint32_t bit, privileged; } header_intent;
#define HEADER_INTENT(name, bit, privileged) { #name, bit, privileged },
static const header_intent header_intents[] = { GW_INTENTS(HEADER_INTENT) };

TEST(intents_are_21_with_their_bits_and_privileges)
{
    uint32_t all = 0, unprivileged = 0;
    size_t i;
    CHECK_EQ(INTENT_COUNT, 21);
    CHECK_EQ(LENGTH(header_intents), 21);
    for (i = 0; i < INTENT_COUNT; i++) {
        CHECK_U64(intents[i].value, B(intents[i].bit));
        CHECK_U64(intents[i].value, intents[i].number);
        CHECK_TEXT(header_intents[i].name, intents[i].name);
        CHECK_U64(header_intents[i].bit, intents[i].bit);
        CHECK_U64(header_intents[i].privileged, intents[i].privileged);
        all |= intents[i].value;
        if (!intents[i].privileged) unprivileged |= intents[i].value;
    }
    CHECK_U64(all, 53608447);
    CHECK_U64(unprivileged, 53575421);
    CHECK_U64(GW_INTENTS_ALL, 53608447);
    CHECK_U64(GW_INTENTS_UNPRIVILEGED, 53575421);
}

TEST(intents_and_events_name_each_other)
{
    size_t i, e;
    uint32_t all = 0;
    for (i = 0; i < INTENT_COUNT; i++) {
        uint32_t brings = 0;
        for (e = 0; e < EVENT_COUNT; e++) brings += (events[e].bits & intents[i].value) != 0;
        CHECK_U64(brings, intents[i].brings);
    }
    for (e = 0; e < EVENT_COUNT; e++) all |= events[e].bits;
    all |= GW_INTENT_MESSAGE_CONTENT;               /* that one fills fields only */
    CHECK_U64(all, GW_INTENTS_ALL);
}

static void check_identify_carries(uint32_t number)
{
    world_init(&w);
    w.cfg.intents = number;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_U64(world_number(&w, WORLD_EV("identify"), 0, "intents"), number);
    world_end(&w);
}

TEST(intents_identify_carries_exactly_the_number_given)
{
    size_t i;
    for (i = 0; i < INTENT_COUNT; i++) {
        check_identify_carries(intents[i].value);
        check_identify_carries(GW_INTENTS_ALL & ~intents[i].value);
    }
    check_identify_carries(0);
    check_identify_carries(GW_INTENTS_ALL);
    check_identify_carries(GW_INTENTS_UNPRIVILEGED);
}

static void check_intents_are_refused(uint32_t number)
{
    int failures = check_failures;
    char text[16];
    world_init(&w);
    w.cfg.intents = number;
    world_begin(&w, NULL);
    CHECK_EQ(WORLD_EXPECT(&w, GW_FATAL, 0)->reason, GW_REASON_CONFIG);
    CHECK_EQ(world_last(&w, GW_FATAL)->shard, GW_ALL);
    snprintf(text, sizeof text, "0x%08x", (unsigned)(number & ~(uint32_t)GW_INTENTS_ALL));
    CHECK_HAS(world_last(&w, GW_FATAL)->message, "config.intents");
    CHECK_HAS(world_last(&w, GW_FATAL)->message, text);         /* which bits they are */
    WORLD_EXPECT(&w, GW_CLOSED, 0);
    world_advance(&w, 60000);
    CHECK_U64(w.opens, 0);
    if (check_failures != failures) fprintf(stderr, "    0x%08x\n", (unsigned)number);
    world_end(&w);
}

TEST(intents_each_undefined_bit_is_refused_before_the_wire)
{
    uint32_t bit, undefined = 0;
    for (bit = 0; bit < 32; bit++) {
        if (GW_INTENTS_ALL & B(bit)) continue;
        undefined++;
        check_intents_are_refused(B(bit));
        check_intents_are_refused(GW_INTENTS_ALL | B(bit));
    }
    CHECK_EQ(undefined, 11);                        /* 17, 18, 19, 22, 23, 26 to 31 */
    check_intents_are_refused(UINT32_MAX);
}

TEST(intents_privileged_ones_that_are_not_approved_end_with_4014)
{
    size_t i;
    for (i = 0; i < INTENT_COUNT; i++) {
        world_init(&w);
        w.sim.denied_intents = GW_INTENTS_ALL & ~(uint32_t)GW_INTENTS_UNPRIVILEGED;
        w.cfg.intents = intents[i].value;
        w.violations_expected = intents[i].privileged;
        world_begin(&w, NULL);
        if (intents[i].privileged) {
            CHECK_EQ(WORLD_EXPECT(&w, GW_FATAL, 100)->close_code, 4014);
            CHECK_HAS(world_last(&w, GW_FATAL)->message, "Developer Portal");
        } else {
            WORLD_EXPECT(&w, GW_READY, 100);
        }
        world_end(&w);
    }
}

/* The simulator's stream knows by itself which event needs which intent. */
TEST(intents_bring_their_own_events_and_those_that_are_always_sent)
{
    size_t i, e, own = 0;
    for (i = 0; i < INTENT_COUNT; i++) {
        world_init(&w);
        w.cfg.intents = intents[i].value;
        w.sim.event_rate = 50;
        world_begin(&w, NULL);
        WORLD_EXPECT(&w, GW_READY, 1000);
        world_advance(&w, 2000);
        CHECK(w.event_count > 50);
        for (e = 0; e < w.event_count; e++) {
            const event_row *row = row_of(w.events[e].name);
            if (!row) { CHECK(w.events[e].type >= GW_GATEWAY_INFO); continue; }
            if (!CHECK(!row->bits || row->bits & intents[i].value))
                fprintf(stderr, "    %s without its intent\n", row->name);
            own += (row->bits & intents[i].value) != 0;
        }
        world_end(&w);
    }
    CHECK(own > 200);
}

/* ---- numbers, ids, times: protocol digest, "Transport facts" ---- */
typedef struct id_case { const char *json; uint64_t value; } id_case;
static const id_case id_cases[] = {
    { "\"0\"", 0 }, { "\"1\"", 1 }, { "\"1098765432109876543\"", UINT64_C(1098765432109876543) },
    { "\"4294967296\"", UINT64_C(4294967296) },
    { "\"9007199254740991\"", UINT64_C(9007199254740991) },
    { "\"9007199254740992\"", UINT64_C(9007199254740992) },
    { "\"9007199254740993\"", UINT64_C(9007199254740993) },
    { "\"9223372036854775807\"", UINT64_C(9223372036854775807) },
    { "\"9223372036854775808\"", UINT64_C(9223372036854775808) },
    { "\"9223372036854775809\"", UINT64_C(9223372036854775809) },
    { "\"18446744073709551614\"", UINT64_MAX - 1 }, { "\"18446744073709551615\"", UINT64_MAX },
    { "\"18446744073709551616\"", 0 }, { "\"184467440737095516150\"", 0 },
    { "\"36893488147419103232\"", 0 }, { "\"-1\"", 0 }, { "\"\"", 0 }, { "\" 1\"", 0 },
    { "\"1 \"", 0 }, { "\"0x10\"", 0 }, { "\"12a\"", 0 },
    { "\"\\u0031\\u0032\"", 12 },       /* an escaped digit is a digit */
    { "null", 0 }, { "true", 0 }, { "[1]", 0 }, { "{\"id\":\"1\"}", 0 }
};

static char ids[LENGTH(id_cases) * 60];
static uint32_t ids_seen;

/* In the event in hand, and in a text of one's own. */
static void read_ids(world *of, const gw_event *event)
{
    size_t i;
    gw_json own = event->d;
    (void)of;
    if (event->type != GW_GUILD_BAN_ADD) return;
    own.index = NULL;
    for (i = 0; i < LENGTH(id_cases); i++) {
        int failures = check_failures;
        char path[24];
        snprintf(path, sizeof path, "ids.%u", (unsigned)i);
        CHECK_U64(gw_u64(&event->d, path), id_cases[i].value);
        CHECK_U64(gw_u64(&own, path), id_cases[i].value);
        if (!strcmp(id_cases[i].json, "\"-1\"")) CHECK_EQ(gw_i64(&own, path), -1);
        else if (id_cases[i].value > INT64_MAX) CHECK_EQ(gw_i64(&own, path), 0);    /* too large */
        else CHECK_EQ(gw_i64(&own, path), id_cases[i].value);
        if (check_failures != failures) fprintf(stderr, "    %s\n", id_cases[i].json);
        ids_seen++;
    }
}

TEST(facts_snowflakes_are_exact_as_strings_and_as_numbers)
{
    size_t i, len;
    uint32_t as_number;
    char command[sizeof ids + 60];
    begin_live(NULL);
    w.on_event = read_ids;
    ids_seen = 0;
    for (as_number = 0; as_number < 2; as_number++) {
        for (i = len = 0; i < LENGTH(id_cases); i++) {
            const char *json = id_cases[i].json;
            int bare = as_number && json[0] == '"' && strspn(json + 1, "0123456789") &&
                       !strpbrk(json, " xa\\");
            len += (size_t)snprintf(ids + len, sizeof ids - len, "%s%.*s", i ? "," : "",
                                    (int)(strlen(json) - (bare ? 2u : 0u)), json + bare);
        }
        snprintf(command, sizeof command, "event GUILD_BAN_ADD {\"ids\":[%s]}", ids);
        world_do(&w, command);
        WORLD_EXPECT(&w, GW_GUILD_BAN_ADD, 100);
    }
    CHECK_U64(ids_seen, 2 * LENGTH(id_cases));
    world_end(&w);
}

#define READY_WITH(seq, user, application) \
    "raw {\"t\":\"READY\",\"s\":" seq ",\"op\":0,\"d\":{\"v\":10,\"user\":{\"id\":" user "}," \
    "\"guilds\":[],\"session_id\":\"ab\\u0063\"," \
    "\"resume_gateway_url\":\"ws:\\/\\/127.0.0.1:8080\\/resume\"," \
    "\"application\":{\"id\":" application ",\"flags\":0}}}"

static void begin_with_ready(const char *ready)
{
    world_init(&w);
    w.any_violations = 1;                           /* the gateway knows nothing of this session */
    world_begin(&w, "next 1 no_ready");
    WORLD_EXPECT(&w, GW_IDENTIFYING, 1000);
    world_do(&w, ready);
    WORLD_EXPECT(&w, GW_READY, 100);
}

TEST(facts_ids_of_ready_are_exact_as_strings_and_as_numbers)
{
    begin_with_ready(READY_WITH("1", "\"18446744073709551615\"", "\"9223372036854775808\""));
    CHECK_U64(gw_user_id(w.gw), UINT64_MAX);
    CHECK_U64(gw_application_id(w.gw), UINT64_C(9223372036854775808));
    world_end(&w);
    begin_with_ready(READY_WITH("1", "9007199254740993", "18446744073709551615"));
    CHECK_U64(gw_user_id(w.gw), UINT64_C(9007199254740993));
    CHECK_U64(gw_application_id(w.gw), UINT64_MAX);
    world_end(&w);
}

TEST(facts_guild_finds_its_shard_by_unsigned_arithmetic)
{
    static const struct { uint64_t guild; int32_t total, shard; } cases[] = {
        { UINT64_C(1098765432109876543), 3, 2 }, { UINT64_C(1098765432109876543), 16, 1 },
        { UINT64_MAX, 3, 0 }, { UINT64_MAX, 16, 15 }, { UINT64_C(9223372036854775808), 3, 2 },
        { UINT64_MAX, 7, 0 }, { UINT64_C(9223372036854775808), 7, 4 }, { 0, 16, 0 },
        { 4194303, 16, 0 }, { 4194304, 16, 1 }
    };
    size_t i;
    for (i = 0; i < LENGTH(cases); i++) {
        world_init(&w);
        w.cfg.shard_count = 1;
        w.cfg.shard_total = cases[i].total;
        world_begin(&w, NULL);
        CHECK_EQ(gw_shard_of(w.gw, cases[i].guild), cases[i].shard);
        world_end(&w);
    }
}

static gw_json text_of(const char *text)
{
    gw_json value;
    memset(&value, 0, sizeof value);
    value.ptr = text;
    value.len = strlen(text);
    return value;
}

TEST(facts_fields_of_two_shapes_read_the_same)
{
    gw_json d = text_of("{\"not_found\":[123,\"123\"],\"sound_id\":1106714396018884649,"
                        "\"sounds\":\"1106714396018884649\",\"nonce\":12,\"nonces\":\"12\"}");
    char text[32];
    CHECK_U64(gw_u64(&d, "not_found.0"), 123);
    CHECK_U64(gw_u64(&d, "not_found.1"), 123);
    CHECK_U64(gw_u64(&d, "sound_id"), UINT64_C(1106714396018884649));
    CHECK_U64(gw_u64(&d, "sounds"), UINT64_C(1106714396018884649));
    gw_text(&d, "nonce", text, sizeof text);
    CHECK_TEXT(text, "12");
    gw_text(&d, "nonces", text, sizeof text);
    CHECK_TEXT(text, "12");
}

TEST(facts_permissions_outgrow_any_number_and_stay_whole_as_text)
{
    gw_json d = text_of("{\"48\":\"281474976710656\",\"64\":\"18446744073709551616\","
                        "\"flags\":565248,\"flags_new\":\"8796093022208\"}");
    char text[32];
    CHECK_U64(gw_u64(&d, "48"), UINT64_C(1) << 48);
    CHECK_U64(gw_u64(&d, "64"), 0);
    CHECK_U64(gw_text(&d, "64", text, sizeof text), 20);
    CHECK_TEXT(text, "18446744073709551616");
    CHECK_U64(gw_u64(&d, "flags"), 565248);
    CHECK_U64(gw_u64(&d, "flags_new"), UINT64_C(8796093022208));
}

TEST(facts_times_keep_their_fractions_and_null_is_not_absent)
{
    gw_json d = text_of("{\"retry_after\":0.125,\"timestamp\":1767323045,\"since\":1767323045678,"
                        "\"endpoint\":null,\"joined_at\":\"2026-01-02T03:04:05.678000+00:00\"}");
    char text[40];
    CHECK(gw_f64(&d, "retry_after") == 0.125);
    CHECK_U64(gw_u64(&d, "retry_after"), 0);        /* a fraction is no whole number */
    CHECK_U64(gw_u64(&d, "timestamp"), 1767323045);
    CHECK_U64(gw_u64(&d, "since"), UINT64_C(1767323045678));
    gw_text(&d, "joined_at", text, sizeof text);
    CHECK_TEXT(text, "2026-01-02T03:04:05.678000+00:00");
    CHECK_EQ(gw_kind_of(&d, "endpoint"), GW_NULL);
    CHECK_EQ(gw_kind_of(&d, "channel_id"), GW_ABSENT);
}

TEST(facts_presence_updates_of_any_shape_harm_nothing)
{
    static const char *const bodies[] = {
        "{\"user\":{\"id\":\"7\"}}", "{\"user\":{\"id\":7},\"status\":5,\"activities\":{}}",
        "{\"user\":{\"id\":\"7\",\"username\":null},\"activities\":[null,5,[],{\"name\":{}}]}",
        "{\"client_status\":[],\"user\":{\"id\":\"7\"},\"guild_id\":false}"
    };
    size_t i;
    begin_live(NULL);
    for (i = 0; i < LENGTH(bodies); i++) {
        char command[200];
        gw_json d;
        snprintf(command, sizeof command, "event PRESENCE_UPDATE %s", bodies[i]);
        world_do(&w, command);
        d = text_of(WORLD_EXPECT(&w, GW_PRESENCE_UPDATE, 100)->d);
        CHECK_U64(gw_u64(&d, "user.id"), 7);
        CHECK_U64(gw_u64(&d, "guild_id"), 0);
        CHECK_EQ(gw_is(&d, "status", "online"), 0);
        CHECK_EQ(gw_kind_of(&d, "activities.0.name"), GW_ABSENT);
    }
    CHECK_U64(world_count_events(&w, GW_DISCONNECTED), 0);
    world_end(&w);
}

/* Heartbeat, Resume and the saved text, each with the same number. */
static void check_seq_everywhere(const char *digits)
{
    char part[40], text[GW_SESSION_MAX];
    world_do(&w, "op1");
    world_settle(&w);
    snprintf(part, sizeof part, "\"d\":%s,", digits);
    CHECK_U64(world_count(&w, WORLD_EV("heartbeat"), part), 1);
    gw_session_save(w.gw, GW_ALL, text, sizeof text);
    snprintf(part, sizeof part, "\n0 0 1 %s ", digits);
    CHECK_HAS(text, part);
    world_do(&w, "cut");
    world_advance(&w, 1);
    snprintf(part, sizeof part, "\"seq\":%s,", digits);
    CHECK_U64(world_count(&w, WORLD_EV("resume"), part), 1);
}

TEST(facts_seq_of_64_bits_is_exact_in_heartbeat_resume_and_text)
{
    static const char *const numbers[] = { "2147483648", "4294967296", "9007199254740993",
                                           "9223372036854775808", "18446744073709551615" };
    size_t i;
    for (i = 0; i < LENGTH(numbers); i++) {
        int failures = check_failures;
        char command[100];
        begin_live(NULL);
        w.any_violations = 1;                       /* the gateway has not sent it */
        snprintf(command, sizeof command, "raw {\"t\":\"TYPING_START\",\"s\":%s,\"op\":0,\"d\":{}}",
                 numbers[i]);
        world_do(&w, command);
        CHECK_U64(WORLD_EXPECT(&w, GW_TYPING_START, 100)->seq, strtoull(numbers[i], NULL, 10));
        check_seq_everywhere(numbers[i]);
        if (check_failures != failures) fprintf(stderr, "    s %s\n", numbers[i]);
        world_end(&w);
    }
}

TEST(facts_seq_zero_is_a_number_and_not_none)
{
    begin_with_ready(READY_WITH("0", "\"1\"", "\"2\""));
    CHECK_U64(world_last(&w, GW_READY)->seq, 0);
    check_seq_everywhere("0");
    world_end(&w);
}

TEST(facts_seq_never_goes_back_and_null_is_none)
{
    static const char *const payloads[] = {
        "raw {\"t\":\"TYPING_START\",\"s\":2,\"op\":0,\"d\":{}}", "seq_zero",
        "raw {\"t\":\"TYPING_START\",\"s\":null,\"op\":0,\"d\":{}}",
        "raw {\"t\":\"TYPING_START\",\"op\":0,\"d\":{}}",
        "raw {\"t\":null,\"s\":null,\"op\":11,\"d\":null}"
    };
    size_t i;
    begin_live(NULL);
    for (i = 0; i < LENGTH(payloads); i++) {
        world_do(&w, payloads[i]);
        world_do(&w, "op1");
        world_settle(&w);
        CHECK_U64(last_beat(), 3);
    }
    CHECK_U64(world_count_events(&w, GW_TYPING_START), 4);  /* consumers know repetitions */
    world_end(&w);
}

TEST(facts_seq_begins_anew_with_each_session)
{
    begin_live(NULL);
    world_do(&w, "event TYPING_START {}");
    world_do(&w, "event TYPING_START {}");
    world_settle(&w);
    world_do(&w, "op9 false");
    CHECK_U64(WORLD_EXPECT(&w, GW_READY, 10000)->seq, 1);
    world_do(&w, "op1");
    world_settle(&w);
    CHECK_U64(last_beat(), 3);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(world_number(&w, WORLD_EV("resume"), 0, "seq"), 3);
    world_end(&w);
}

CHECK_MAIN()
