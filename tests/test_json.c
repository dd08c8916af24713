/* The json room: the envelope scan, the strict check, look-ups both ways, text in and out. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "check.h"
#include <locale.h>

/* ---- helpers ---- */
static uint32_t chance_state;

static uint32_t chance(uint32_t below)      /* xorshift: the same numbers everywhere */
{
    chance_state ^= chance_state << 13;
    chance_state ^= chance_state >> 17;
    chance_state ^= chance_state << 5;
    return chance_state % below;
}

static gw_json json(const char *text)
{
    gw_json v = GW_INIT;
    v.ptr = text;
    v.len = strlen(text);
    return v;
}

/* A copy of its own size, so that a sanitizer sees each byte read behind its end. */
static char *exact(const char *text, size_t len)
{
    char *copy = (char *)malloc(len ? len : 1);
    memcpy(copy, text, len);
    return copy;
}

static const char *raw(const gw_json *v)    /* one at a time */
{
    static char text[512];
    if (!v->ptr) return "(absent)";
    snprintf(text, sizeof text, "%.*s", (int)v->len, v->ptr);
    return text;
}

static const char *got(const char *text, const char *path)
{
    gw_json v = json(text), found;
    gw_get(&v, path, &found);
    return raw(&found);
}

static char scan_log[1024];

static void note(const char *what, const char *text)
{
    size_t len = strlen(scan_log);
    snprintf(scan_log + len, sizeof scan_log - len, "%s%s", what, text);
}

static void note_number(const char *what, uint64_t number)
{
    char digits[32];
    snprintf(digits, sizeof digits, "%llu ", (unsigned long long)number);
    note(what, digits);
}

/* Feeds the text in pieces and writes down each find; d is collected as the caller would. */
static const char *scanned_in_pieces(const char *text, size_t len, size_t piece)
{
    gw__json_scan scan;
    size_t at = 0, used, d_len = 0;
    char d[600];
    int inside = 0;
    scan_log[0] = 0;
    gw__json_scan_begin(&scan);
    for (;;) {
        size_t now = GW__MIN(len - at, piece);
        char *bytes = exact(text + at, now);
        gw__json_found found = gw__json_scan_next(&scan, (const uint8_t *)bytes, now, &used);
        if (inside && d_len + used < sizeof d) memcpy(d + d_len, bytes, used), d_len += used;
        free(bytes);
        at += used;
        d[d_len] = 0;
        switch (found) {
        case GW__JSON_NEED_MORE: if (at == len) return scan_log; break;
        case GW__JSON_OP:   note_number("op=", scan.op); break;
        case GW__JSON_SEQ:  note_number("s=", scan.seq); break;
        case GW__JSON_NAME: note("t=", scan.name), note(" ", ""); break;
        case GW__JSON_D_BEGIN: inside = 1; d_len = 0; break;
        case GW__JSON_D_END:   inside = 0; note("d=", d), note(" ", ""); break;
        case GW__JSON_END:     note("end", ""); break;
        case GW__JSON_BROKEN:  note("broken: ", scan.why); return scan_log;
        }
    }
}

/* Whole, by the byte and in pieces of each length up to 9: all must find the same. */
static const char *scanned_len(const char *text, size_t len)
{
    static char whole[1024];
    size_t piece;
    strcpy(whole, scanned_in_pieces(text, len, len ? len : 1));
    for (piece = 1; piece < 10; piece++) CHECK_TEXT(scanned_in_pieces(text, len, piece), whole);
    return whole;
}

static const char *scanned(const char *text)
{
    return scanned_len(text, strlen(text));
}

/* ---- envelope ---- */
TEST(scan_reads_a_dispatch_as_discord_sends_it)
{
    CHECK_TEXT(scanned("{\"t\":\"MESSAGE_CREATE\",\"s\":42,\"op\":0,\"d\":{\"content\":\"hi\"}}"),
               "t=MESSAGE_CREATE s=42 op=0 d={\"content\":\"hi\"} end");
}

TEST(scan_takes_keys_in_any_order)
{
    CHECK_TEXT(scanned("{\"d\":{\"a\":1},\"op\":0,\"s\":7,\"t\":\"X\"}"), "d={\"a\":1} op=0 s=7 t=X end");
    CHECK_TEXT(scanned("{\"op\":0,\"d\":[1,2],\"t\":\"X\",\"s\":7}"), "op=0 d=[1,2] t=X s=7 end");
}

TEST(scan_takes_null_as_absent_except_for_d)
{
    gw__json_scan scan;
    size_t used;
    const char *text = "{\"t\":null,\"s\":null,\"op\":null}";
    CHECK_TEXT(scanned("{\"t\":null,\"op\":11}"), "op=11 end");
    CHECK_TEXT(scanned("{\"t\":null,\"s\":null,\"op\":7,\"d\":null}"), "op=7 d=null end");
    gw__json_scan_begin(&scan);
    CHECK_EQ(gw__json_scan_next(&scan, (const uint8_t *)text, strlen(text), &used), GW__JSON_END);
    CHECK(!scan.has_op && !scan.has_seq && !scan.has_name && !scan.has_d);
}

TEST(scan_hands_out_a_d_of_any_kind)
{
    CHECK_TEXT(scanned("{\"op\":9,\"d\":true}"), "op=9 d=true end");
    CHECK_TEXT(scanned("{\"op\":9,\"d\": false }"), "op=9 d=false end");
    CHECK_TEXT(scanned("{\"op\":1,\"d\":251}"), "op=1 d=251 end");
    CHECK_TEXT(scanned("{\"op\":1,\"d\":-1.5e+3}"), "op=1 d=-1.5e+3 end");
    CHECK_TEXT(scanned("{\"op\":1,\"d\":\"a\\\"}{\"}"), "op=1 d=\"a\\\"}{\" end");
    CHECK_TEXT(scanned("{\"d\":[],\"op\":1}"), "d=[] op=1 end");
    CHECK_TEXT(scanned("{\"d\":{},\"op\":1}"), "d={} op=1 end");
}

TEST(scan_is_not_misled_by_what_is_inside_d)
{
    CHECK_TEXT(scanned("{\"t\":\"A\",\"d\":{\"name\":\"\\\"t\\\":\\\"B\\\"\",\"t\":\"C\",\"op\":5},\"op\":0}"),
               "t=A d={\"name\":\"\\\"t\\\":\\\"B\\\"\",\"t\":\"C\",\"op\":5} op=0 end");
    CHECK_TEXT(scanned("{\"op\":10,\"d\":{\"heartbeat_interval\":41250,\"_trace\":[\"[\\\"gateway\\\",{}]\"]}}"),
               "op=10 d={\"heartbeat_interval\":41250,\"_trace\":[\"[\\\"gateway\\\",{}]\"]} end");
    CHECK_TEXT(scanned("{\"d\":{\"a\":\"\\\\\"},\"op\":0}"), "d={\"a\":\"\\\\\"} op=0 end");
}

TEST(scan_passes_unknown_keys_with_values_of_any_kind)
{
    CHECK_TEXT(scanned("{\"x\":{\"op\":3},\"y\":[\"]\"],\"z\":\"op\",\"n\":1.5,\"b\":true,\"opx\":1,\"\":null,\"op\":1}"),
               "op=1 end");
}

TEST(scan_decodes_escaped_keys_and_names)
{
    CHECK_TEXT(scanned("{\"\\u006f\\u0070\":4,\"\\u0064\":1,\"\\u0074\":\"RE\\u0041DY\"}"), "op=4 d=1 t=READY end");
    CHECK_TEXT(scanned("{\"t\":\"a\\/b\\u00e9\\ud83d\\ude00\"}"), "t=a/b\xC3\xA9\xF0\x9F\x98\x80 end");
    CHECK_TEXT(scanned("{\"t\":\"x\\ud83dy\\udc00\\ud83d\"}"), "t=x\xEF\xBF\xBDy\xEF\xBF\xBD\xEF\xBF\xBD end");
}

TEST(scan_takes_the_last_of_a_repeated_key)
{
    gw__json_scan scan;
    size_t used, at = 0;
    const char *text = "{\"t\":\"A\",\"t\":null,\"s\":4,\"s\":null,\"op\":3,\"op\":null}";
    CHECK_TEXT(scanned("{\"op\":1,\"op\":2,\"t\":\"A\",\"t\":\"B\",\"d\":1,\"d\":{}}"), "op=1 op=2 t=A t=B d=1 d={} end");
    gw__json_scan_begin(&scan);
    while (at < strlen(text)) {
        CHECK(gw__json_scan_next(&scan, (const uint8_t *)text + at, strlen(text) - at, &used) != GW__JSON_BROKEN);
        at += used;
    }
    CHECK(!scan.has_op && !scan.has_seq && !scan.has_name);
    CHECK_TEXT(scan.name, "");
}

TEST(scan_holds_numbers_up_to_64_bits_exactly)
{
    CHECK_TEXT(scanned("{\"s\":9007199254740993}"), "s=9007199254740993 end");
    CHECK_TEXT(scanned("{\"s\":18446744073709551615}"), "s=18446744073709551615 end");
    CHECK_TEXT(scanned("{\"op\":18446744073709551615}"), "op=18446744073709551615 end");
    CHECK_HAS(scanned("{\"s\":18446744073709551616}"), "broken: s is not an integer");
    CHECK_HAS(scanned("{\"s\":99999999999999999999999}"), "broken: s is not an integer");
    CHECK_TEXT(scanned("{\"s\":0}"), "s=0 end");
}

TEST(scan_refuses_op_and_s_that_are_no_integers)
{
    static const char *const values[] = { "1.0", "1e3", "-1", "-0", "0.5", "\"1\"", "{}", "[]", "true", "false",
                                          "01", "+1", "1x", "nul", "nulll", "NaN", "" };
    char text[64];
    size_t i;
    for (i = 0; i < sizeof values / sizeof *values; i++) {
        snprintf(text, sizeof text, "{\"op\":%s}", values[i]);
        CHECK_HAS(scanned(text), "broken: ");
        snprintf(text, sizeof text, "{\"s\":%s}", values[i]);
        CHECK_HAS(scanned(text), "broken: ");
    }
    CHECK_HAS(scanned("{\"op\":1.0}"), "op is not an integer");
}

TEST(scan_refuses_a_name_that_is_no_string)
{
    static const char *const values[] = { "1", "true", "{}", "[]", "nul", "\"\\x\"", "\"\\u12g4\"", "\"a\nb\"", "'a'" };
    char text[64];
    size_t i;
    for (i = 0; i < sizeof values / sizeof *values; i++) {
        snprintf(text, sizeof text, "{\"t\":%s}", values[i]);
        CHECK_HAS(scanned(text), "broken: ");
    }
}

TEST(scan_is_strict_between_the_values)
{
    static const char *const texts[] = {
        "[]", "1", "\"a\"", "x", "{,}", "{\"op\"}", "{\"op\" 1}", "{\"op\":1,}", "{\"op\":1 \"s\":2}", "{\"op\"::1}",
        "{op:1}", "{'op':1}", "{\"op\":1}}", "{\"op\":1}x", "{\"op\":1}{}", "{\"op\":1,,\"s\":1}", "{1:2}", "{\"d\":}",
        "{\"d\":tru3}", "{\"d\":truee}", "{\"d\":-}", "{\"d\":01}", "{\"d\":1.}", "{\"d\":.5}", "{\"d\":1e}", "{\"d\":1e+}",
        "{\"d\":nul,}", "{\"d\":+1}", "{\"d\":True}", "{\"d\":1 2}", "{\"d\":]}", "{\"d\":1]", "{\"x\":\"\\q\"}", "{\"\\q\":1}",
        "{\"d\":--1}", "{\"d\":0x10}", "{\"d\":\"a\tb\"}", "{\"a\nb\":1}", "{]", "\xEF\xBB\xBF{}", "{\"d\":1\f}" };
    size_t i;
    for (i = 0; i < sizeof texts / sizeof *texts; i++) CHECK_HAS(scanned(texts[i]), "broken: ");
    CHECK_TEXT(scanned(" \r\n\t{ \"op\" : 1 , \"d\" : [ ] } \r\n\t "), "op=1 d=[ ] end");
    CHECK_TEXT(scanned("{}"), "end");
    CHECK_HAS(scanned_len("{\"d\":\0}", 7), "broken: ");
    CHECK_HAS(scanned_len("{\"d\":true\0}", 11), "broken: ");
    CHECK_HAS(scanned_len("{}\0", 3), "broken: bytes follow");
}

TEST(scan_refuses_brackets_in_d_that_do_not_close)
{
    CHECK_HAS(scanned("{\"d\":{]}}"), "broken: ");        /* a nest counts brackets, whatever their kind */
    CHECK_HAS(scanned("{\"d\":[}]}"), "broken: ");
    CHECK_HAS(scanned("{\"d\":{\"a\":[}]},\"op\":1}}"), "broken: ");
    CHECK_HAS(scanned("{\"op\":1,\"d\":{\"a\":[]}]}}"), "broken: ");
    CHECK_TEXT(scanned("{\"op\":1,\"d\":{\"a\":[}}"), "op=1 d={\"a\":[}} ");
    CHECK_TEXT(scanned("{\"op\":1,\"d\":{\"a\":[}"), "op=1 ");       /* the message's end will tell */
}

TEST(scan_refuses_a_control_byte_inside_a_string)
{
    char text[] = "{\"d\":{\"a\":\"x?y\"}}", escaped[] = "{\"d\":{\"a\":\"x\\?y\"}}";
    int byte;
    for (byte = 0; byte < 0x20; byte++) {
        text[12] = (char)byte;
        CHECK_HAS(scanned_len(text, sizeof text - 1), "broken: a control byte");
        escaped[13] = (char)byte;
        CHECK_HAS(scanned_len(escaped, sizeof escaped - 1), "broken: a control byte");
    }
}

TEST(scan_cut_at_any_length_asks_for_more)
{
    const char *text = " {\"t\":\"GUILD\\u005fCREATE\",\"s\":12,\"op\":0,\"d\":{\"a\":[\"\\\"}\",{}],\"b\":1e5},\"x\":null,\"y\":\"z\"}";
    size_t len;
    for (len = 0; len < strlen(text); len++) {
        const char *log = scanned_len(text, len);
        CHECK(!strstr(log, "broken") && !strstr(log, "end"));
    }
    CHECK_HAS(scanned(text), " end");
}

TEST(scan_stays_broken)
{
    gw__json_scan scan;
    size_t used;
    gw__json_scan_begin(&scan);
    CHECK_EQ(gw__json_scan_next(&scan, (const uint8_t *)"[", 1, &used), GW__JSON_BROKEN);
    CHECK_EQ(gw__json_scan_next(&scan, (const uint8_t *)"{}", 2, &used), GW__JSON_BROKEN);
    CHECK_EQ(used, 0);
    CHECK_TEXT(scan.why, "the payload is not a JSON object");
}

TEST(scan_cuts_a_long_name_between_characters)
{
    gw__json_scan scan;
    char text[400] = "{\"t\":\"";
    size_t used, i;
    for (i = 0; i < 100; i++) strcat(text, "\xC3\xA9");
    strcat(text, "\"}");
    gw__json_scan_begin(&scan);
    CHECK_EQ(gw__json_scan_next(&scan, (const uint8_t *)text, strlen(text), &used), GW__JSON_NAME);
    CHECK_EQ(scan.name_len, 126);
    CHECK_EQ(strlen(scan.name), 126);
    text[6 + 127] = '"';
    text[6 + 128] = '}';
    gw__json_scan_begin(&scan);
    CHECK_EQ(gw__json_scan_next(&scan, (const uint8_t *)text, 135, &used), GW__JSON_NAME);
    CHECK_EQ(scan.name_len, 127);       /* fits whole, though its last character is not: not ours to judge */
}

/* Brackets that open and, in the other half, close; in chunks, as no test should need 10 MB. */
TEST(scan_keeps_the_name_terminated_while_it_comes)
{
    static const char text[] = "{\"t\":\"GUILD_CREATE\",\"t\":\"AB\\u00e9C";
    gw__json_scan scan;
    size_t at, used;
    memset(&scan, 'x', sizeof scan);        /* what a payload before left */
    gw__json_scan_begin(&scan);
    for (at = 0; at < sizeof text - 1; at++) {
        gw__json_scan_next(&scan, (const uint8_t *)text + at, 1, &used);
        CHECK_U64(strlen(scan.name), scan.name_len);
    }
    CHECK_TEXT(scan.name, "AB\xc3\xa9" "C");
}

TEST(scan_passes_ten_million_brackets)
{
    static char opening[100000], closing[100000];
    gw__json_scan scan;
    size_t used, i;
    memset(opening, '[', sizeof opening);
    memset(closing, ']', sizeof closing);
    gw__json_scan_begin(&scan);
    CHECK_EQ(gw__json_scan_next(&scan, (const uint8_t *)"{\"d\":[", 6, &used), GW__JSON_D_BEGIN);
    CHECK_EQ(used, 5);
    for (i = 0; i < 50; i++)
        CHECK_EQ(gw__json_scan_next(&scan, (const uint8_t *)opening, sizeof opening, &used), GW__JSON_NEED_MORE);
    for (i = 0; i < 49; i++)
        CHECK_EQ(gw__json_scan_next(&scan, (const uint8_t *)closing, sizeof closing, &used), GW__JSON_NEED_MORE);
    CHECK_EQ(gw__json_scan_next(&scan, (const uint8_t *)closing, sizeof closing, &used), GW__JSON_D_END);
    CHECK_EQ(gw__json_scan_next(&scan, (const uint8_t *)"}", 1, &used), GW__JSON_END);
}

/* ---- strict check: cases in the manner of JSONTestSuite ---- */
static const char *const valid_texts[] = {
    "0", "-0", "1", "-1", "10", "1.5", "1e1", "1E+2", "1e-2", "0.1e1", "-0.0", "123456789012345678901234567890", "true", "false", "null",
    "\"\"", "\"a\"", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\u0000\"", "\"\\uD800\"", "\"\\uD83D\\uDE00\"", "\"\\uabCD\"", "\"\x7F\"",
    "\"\xC3\xA9\"", "\"\xF0\x9F\x98\x80\"", "[]", "{}", "[[]]", "[{}]", "{\"a\":[]}", "[1,2]", "[1,[2,{\"a\":null}],\"x\"]",
    "{\"a\":1,\"a\":2}", "{\"\":0}", " [ 1 , 2 ] ", "\t\n\r {\t\"a\"\n:\r1 } ", "[1,\"\",{}]", "{\"a\":{\"b\":{\"c\":[[[]]]}}}",
    "[true,false,null]", "[-1.5E-10]", "\"a long text without any escape, over more than eight bytes\"" };

static const char *const invalid_texts[] = {
    "", " ", "[", "]", "{", "}", "[1", "[1,", "[1,]", "[,1]", "[,]", "[1 2]", "[1,,2]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{,}", "{\"a\" \"b\"}",
    "{\"a\":1 \"b\":2}", "{a:1}", "{'a':1}", "{1:1}", "{\"a\"::1}", "{\"a\":1]", "[1}", "[{]}", "tru", "tru3", "True", "TRUE", "nul", "nulll", "-",
    "+1", "01", "-01", "1.", ".1", "1.e1", "1e", "1e+", "0x1", "1a", "--1", "1-", "1 2", "Infinity", "NaN", "-NaN", "\"", "\"a", "\"\\\"", "\"\\x\"",
    "\"\\u\"", "\"\\u12\"", "\"\\u123\"", "\"\\u123g\"", "\"\\U0000\"", "\"a\nb\"", "\"\t\"", "'a'", "[\"a\",\n4\n,1,", "[]]", "{}}", "[]x", "{} {}",
    "\xEF\xBB\xBF[]", "\xEF\xBB\xBF", "[1]/**/", "// a\n[]", "[\f]", "\"\xC3\"", "\"\xFF\"", "\"\xED\xA0\x80\"", "\"\xC0\x80\"", "[1,2", "{\"a\":[1}",
    "{\"a\":1", "{\"a\":", "{\"a\"", "{\"", "\"\\", "[\"\\", "[\"\\u1", "\v1", "\xC2\xA0[]", "[\"a\"b]", "{\"a\":tru}", "[-]", "[1.0e]", "[.]" };

TEST(check_accepts_what_is_json_and_nothing_else)
{
    size_t i, len;
    for (i = 0; i < sizeof valid_texts / sizeof *valid_texts; i++) {
        len = strlen(valid_texts[i]);
        char *text = exact(valid_texts[i], len);
        if (!CHECK(gw__json_is_valid(text, len))) fprintf(stderr, "  %s\n", valid_texts[i]);
        free(text);
    }
    for (i = 0; i < sizeof invalid_texts / sizeof *invalid_texts; i++) {
        len = strlen(invalid_texts[i]);
        char *text = exact(invalid_texts[i], len);
        if (!CHECK(!gw__json_is_valid(text, len))) fprintf(stderr, "  %s\n", invalid_texts[i]);
        free(text);
    }
    CHECK(!gw__json_is_valid("[1\0]", 4));
    CHECK(!gw__json_is_valid("[]\0", 3));
    CHECK(!gw__json_is_valid("\"\0\"", 3));
}

TEST(check_refuses_a_container_cut_at_any_length)
{
    const char *text = "{\"a\":[1,-2.5e+7,\"\\u00e9\\n\",true,false,null,{}],\"b\":{\"c\":[[]]}}";
    size_t len;
    for (len = 0; len < strlen(text); len++) {
        char *cut = exact(text, len);
        CHECK(!gw__json_is_valid(cut, len));
        free(cut);
    }
    CHECK(gw__json_is_valid(text, strlen(text)));
}

TEST(check_knows_4096_levels_and_no_more)
{
    char text[2 * (GW__JSON_DEPTH_MAX + 1)];
    size_t depth;
    for (depth = GW__JSON_DEPTH_MAX; depth <= GW__JSON_DEPTH_MAX + 1; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        CHECK_EQ(gw__json_is_valid(text, 2 * depth), depth == GW__JSON_DEPTH_MAX);
    }
}

/* ---- look-ups ---- */
static const char message[] =
    "{\"id\":\"1234567890123456789\",\"author\":{\"id\":\"80351110224678912\",\"bot\":true,\"username\":\"n\\u00e9\"},"
    "\"roles\":[\"1\",\"2\",{\"a\":{\"b\":[10,20,{\"c\":\"deep\"}]}}],\"content\":\"!ping\",\"none\":null,\"tts\":false,"
    "\"num\":-12.5e1, \"a.b\":1,\"esc\\u0061ped\":\"yes\",\"twice\":1,\"twice\":2,\"\":\"empty\",\"10\":\"ten\"}";

TEST(get_follows_a_path_through_objects_and_arrays)
{
    CHECK_TEXT(got(message, "id"), "\"1234567890123456789\"");
    CHECK_TEXT(got(message, "author.id"), "\"80351110224678912\"");
    CHECK_TEXT(got(message, "roles.0"), "\"1\"");
    CHECK_TEXT(got(message, "roles.2.a.b.2.c"), "\"deep\"");
    CHECK_TEXT(got(message, "roles.2.a.b"), "[10,20,{\"c\":\"deep\"}]");
    CHECK_TEXT(got(message, "10"), "\"ten\"");
    CHECK_TEXT(got(message, "none"), "null");
    CHECK_TEXT(got(message, "num"), "-12.5e1");
}

TEST(get_of_no_path_is_the_value_itself)
{
    CHECK_TEXT(got(" [1] ", NULL), "[1]");
    CHECK_TEXT(got("\t7\n", ""), "7");
    CHECK_TEXT(got("  ", NULL), "(absent)");
    CHECK_TEXT(got("", NULL), "(absent)");
}

TEST(get_gives_absent_for_what_is_not_there)
{
    static const char *const paths[] = {
        "nothing", "author.nothing", "author.id.0", "roles.9", "roles.x", "roles.-1", "roles.1.0", "roles..",
        "content.0", "none.a", "a.b", "i", "idd", "roles.99999999999999999999" };
    size_t i;
    gw_json v = json(message), found;
    for (i = 0; i < sizeof paths / sizeof *paths; i++) {
        found = v;
        if (!CHECK_EQ(gw_get(&v, paths[i], &found), 0)) fprintf(stderr, "  %s\n", paths[i]);
        CHECK(!found.ptr && found.len == 0 && !found.index);
        CHECK_EQ(gw_get(&found, "x", &found), 0);
    }
    CHECK_EQ(gw_get(NULL, "a", &found), 0);
    CHECK_EQ(gw_get(&v, "id", NULL), 1);
}

TEST(get_takes_a_trailing_dot_as_nothing_and_an_empty_segment_as_the_empty_key)
{
    CHECK_TEXT(got(message, "author.id."), "\"80351110224678912\"");
    CHECK_TEXT(got("{\"a\":{\"\":{\"b\":1}}}", "a..b"), "1");
    CHECK_TEXT(got("{\"\":{\"b\":1}}", ".b"), "1");
}

TEST(get_compares_keys_decoded_and_takes_the_first_of_equals)
{
    CHECK_TEXT(got(message, "escaped"), "\"yes\"");
    CHECK_TEXT(got(message, "esc\\u0061ped"), "(absent)");
    CHECK_TEXT(got(message, "twice"), "1");
    CHECK_TEXT(got("{\"\\u0061\":1,\"a\":2}", "a"), "1");
    CHECK_TEXT(got("{\"\\ud83d\\ude00\":1}", "\xF0\x9F\x98\x80"), "1");
    CHECK_TEXT(got("{\"\\ud83d\":1}", "\xEF\xBF\xBD"), "1");
    CHECK_TEXT(got("{\"a\\u0000b\":1,\"a\":2}", "a"), "2");
}

TEST(get_may_write_over_its_own_value)
{
    gw_json v = json(message);
    CHECK_EQ(gw_get(&v, "author", &v), 1);
    CHECK_EQ(gw_get(&v, "id", &v), 1);
    CHECK_TEXT(raw(&v), "\"80351110224678912\"");
}

TEST(get_reads_a_fault_on_the_way_as_absent)
{
    CHECK_TEXT(got("{\"a\":1 \"b\":2}", "b"), "(absent)");
    CHECK_TEXT(got("{\"a\":1,,\"b\":2}", "b"), "(absent)");
    CHECK_TEXT(got("{\"a\" 1,\"b\":2}", "b"), "(absent)");
    CHECK_TEXT(got("{\"a\":tru3,\"b\":2}", "b"), "(absent)");
    CHECK_TEXT(got("{\"a\":\"x\ny\",\"b\":2}", "b"), "(absent)");
    CHECK_TEXT(got("{\"a\":[}],\"b\":2}", "b"), "(absent)");
    CHECK_TEXT(got("[1 2]", "1"), "(absent)");
    CHECK_TEXT(got("[1,]", "1"), "(absent)");
    CHECK_TEXT(got("{\"a\":1", "a"), "(absent)");       /* it may have been 12 */
    CHECK_TEXT(got("{\"b\":2,\"a\":tru3}", "b"), "2");
}

TEST(get_of_text_cut_at_any_length_reads_no_byte_behind_it)
{
    size_t len, deep = (size_t)(strstr(message, "deep") - message);
    for (len = 0; len < sizeof message; len++) {
        char *cut = exact(message, len);
        gw_json v = GW_INIT, found;
        v.ptr = cut;
        v.len = len;
        gw_get(&v, "roles.2.a.b.2.c", &found);
        CHECK(!found.ptr || len > deep);
        CHECK_EQ(gw_get(&v, "not there", &found), 0);
        gw_kind_of(&v, NULL);
        free(cut);
    }
}

TEST(kind_of_tells_each_kind)
{
    gw_json v = json(message);
    CHECK_EQ(gw_kind_of(&v, NULL), GW_OBJECT);
    CHECK_EQ(gw_kind_of(&v, "roles"), GW_ARRAY);
    CHECK_EQ(gw_kind_of(&v, "id"), GW_STRING);
    CHECK_EQ(gw_kind_of(&v, "num"), GW_NUMBER);
    CHECK_EQ(gw_kind_of(&v, "author.bot"), GW_TRUE);
    CHECK_EQ(gw_kind_of(&v, "tts"), GW_FALSE);
    CHECK_EQ(gw_kind_of(&v, "none"), GW_NULL);
    CHECK_EQ(gw_kind_of(&v, "gone"), GW_ABSENT);
    CHECK_EQ(gw_kind_of(NULL, NULL), GW_ABSENT);
}

TEST(kind_of_a_bare_text_that_is_no_json_is_absent)
{
    static const char *const texts[] = { "tru3", "-", "1 2", "\"a", "\"a\" \"b\"", "\"\\x\"", "nul", "01", "x", "\"a\"b" };
    size_t i;
    for (i = 0; i < sizeof texts / sizeof *texts; i++) {
        gw_json v = json(texts[i]);
        CHECK_EQ(gw_kind_of(&v, NULL), GW_ABSENT);
    }
}

TEST(pick_finds_what_get_finds)
{
    static const char *const paths[] = { "author.id", "content", "nothing", "author.bot", "roles.2.a.b.1", "twice", "author.x",
                                         "escaped", "content", "twice.x" };
    gw_json v = json(message), out[10], one;
    uint32_t i, found = 0;
    memset(out, 0x55, sizeof out);
    i = gw_pick(&v, paths, 10, out);
    CHECK_EQ(i, 7);
    for (i = 0; i < 10; i++) {
        found += (uint32_t)gw_get(&v, paths[i], &one);
        CHECK(out[i].ptr == one.ptr && out[i].len == one.len);
    }
    CHECK_EQ(found, 7);
}

TEST(pick_lets_the_first_of_equal_keys_decide)
{
    static const char *const paths[] = { "a.b", "a" };
    gw_json v = json("{\"a\":1,\"a\":{\"b\":2}}"), out[2];
    CHECK_EQ(gw_pick(&v, paths, 2, out), 1);
    CHECK(!out[0].ptr && out[0].len == 0);
    CHECK_TEXT(raw(&out[1]), "1");
}

TEST(pick_works_on_arrays_and_on_the_value_itself)
{
    static const char *const paths[] = { "1", NULL, "", "0.a" };
    gw_json v = json("[{\"a\":5},6]"), out[4];
    CHECK_EQ(gw_pick(&v, paths, 4, out), 4);
    CHECK_TEXT(raw(&out[0]), "6");
    CHECK_TEXT(raw(&out[1]), "[{\"a\":5},6]");
    CHECK_TEXT(raw(&out[2]), "[{\"a\":5},6]");
    CHECK_TEXT(raw(&out[3]), "5");
    CHECK_EQ(gw_pick(NULL, paths, 4, out), 0);
    CHECK_EQ(gw_pick(&v, paths, 0, NULL), 0);
}

TEST(next_visits_each_member_in_order)
{
    gw_json v = json(" { \"a\" : 1 , \"b\\u0062\" : [ 2 , {} ] , \"c\":\"x\" } "), key, value = GW_INIT;
    CHECK_EQ(gw_next(&v, &key, &value), 1);
    CHECK_TEXT(raw(&key), "\"a\"");
    CHECK_TEXT(raw(&value), "1");
    CHECK_EQ(gw_next(&v, &key, &value), 1);
    CHECK(gw_is(&key, NULL, "bb"));
    CHECK_TEXT(raw(&value), "[ 2 , {} ]");
    CHECK_EQ(gw_next(&v, NULL, &value), 1);
    CHECK_TEXT(raw(&value), "\"x\"");
    CHECK_EQ(gw_next(&v, &key, &value), 0);
    CHECK(!key.ptr && !value.ptr);
}

TEST(next_visits_an_array_and_ends_at_once_in_what_is_empty)
{
    gw_json v = json("[10,\"\",[],null]"), key, value = GW_INIT;
    int count = 0;
    while (gw_next(&v, &key, &value)) {
        count++;
        CHECK(!key.ptr);
    }
    CHECK_EQ(count, 4);
    v = json("[ ]");
    CHECK_EQ(gw_next(&v, &key, &value), 0);
    v = json("{}");
    CHECK_EQ(gw_next(&v, &key, &value), 0);
    v = json("5");
    CHECK_EQ(gw_next(&v, &key, &value), 0);
    CHECK_EQ(gw_next(NULL, &key, &value), 0);
    CHECK_EQ(gw_next(&v, NULL, NULL), 0);
}

TEST(next_ends_where_the_text_is_broken)
{
    static const char *const texts[] = { "[1,2 3]", "[1,2,]", "[1,2,", "[1,2", "[1,2}", "{\"a\":1,\"b\":2,\"c\"}", "{\"a\":1,\"b\":2,3}" };
    size_t i;
    for (i = 0; i < sizeof texts / sizeof *texts; i++) {
        gw_json v = json(texts[i]), value = GW_INIT;
        int count = 0;
        while (gw_next(&v, NULL, &value)) count++;
        CHECK(count == 2 || (count == 1 && strcmp(texts[i], "[1,2") == 0));
    }
}

TEST(next_refuses_a_value_of_something_else)
{
    gw_json v = json("[1,2]"), value = json("7");
    CHECK_EQ(gw_next(&v, NULL, &value), 0);
    value = v;
    value.len = 0;
    CHECK_EQ(gw_next(&v, NULL, &value), 0);
}

/* ---- values ---- */
static uint64_t u64_of(const char *text) { gw_json v = json(text); return gw_u64(&v, NULL); }
static int64_t i64_of(const char *text) { gw_json v = json(text); return gw_i64(&v, NULL); }
static double f64_of(const char *text) { gw_json v = json(text); return gw_f64(&v, NULL); }

TEST(u64_is_exact_for_numbers_and_strings_of_digits)
{
    CHECK_U64(u64_of("18446744073709551615"), UINT64_MAX);
    CHECK_U64(u64_of("\"18446744073709551615\""), UINT64_MAX);
    CHECK_U64(u64_of("9007199254740993"), UINT64_C(9007199254740993));
    CHECK_U64(u64_of("\"007\""), 7);
    CHECK_U64(u64_of("\"\\u0031\\u0032\""), 12);
    CHECK_U64(u64_of("0"), 0);
}

TEST(u64_is_0_for_everything_else)
{
    static const char *const texts[] = { "18446744073709551616", "\"18446744073709551616\"", "-1", "\"-1\"", "1.0", "1e3", "\"\"", "\"1a\"",
                                         "\" 1\"", "\"+1\"", "true", "null", "[]", "{}", "[1]", "1 2", "01", "\"\\u0031", "" };
    size_t i;
    for (i = 0; i < sizeof texts / sizeof *texts; i++) CHECK_U64(u64_of(texts[i]), 0);
    CHECK_U64(gw_u64(NULL, "a"), 0);
}

TEST(i64_has_a_sign_and_both_its_limits)
{
    CHECK_EQ(i64_of("-9223372036854775808"), INT64_MIN);
    CHECK_EQ(i64_of("\"-9223372036854775808\""), INT64_MIN);
    CHECK_EQ(i64_of("9223372036854775807"), INT64_MAX);
    CHECK_EQ(i64_of("9223372036854775808"), 0);
    CHECK_EQ(i64_of("-9223372036854775809"), 0);
    CHECK_EQ(i64_of("-0"), 0);
    CHECK_EQ(i64_of("-5"), -5);
    CHECK_EQ(i64_of("\"-\""), 0);
    CHECK_EQ(i64_of("\"--1\""), 0);
    CHECK_EQ(i64_of("\"\""), 0);
    CHECK_EQ(i64_of("1.5"), 0);
}

static const struct { const char *text; double value; } doubles[] = {
    { "0", 0.0 }, { "1", 1.0 }, { "-1", -1.0 }, { "0.1", 0.1 }, { "\"0.1\"", 0.1 }, { "12.5e3", 12500.0 }, { "1e-3", 1e-3 }, { "1E+2", 100.0 },
    { "0.00000123", 0.00000123 }, { "123456789.123456789", 123456789.123456789 }, { "1.7976931348623157e308", 1.7976931348623157e308 },
    { "5e-324", 5e-324 }, { "1e-400", 0.0 }, { "100000000000000000000000", 1e23 }, { "0e99999999999999999999", 0.0 },
    { "0.000000000000000000000000000000000000000000000000000001", 1e-54 }, { "3.14159265358979323846264338327950288419716939937510582097494", 3.141592653589793 },
    /* half-way between two doubles, and a trifle above it */
    { "0.500000000000000055511151231257827021181583404541015625", 0.5 },
    { "0.500000000000000055511151231257827021181583404541015625000001", 0.50000000000000011102 },
    { "9007199254740993.00000000000000000000000000000001", 9007199254740994.0 },
    { "9007199254740993", 9007199254740992.0 }, { "\"\\u0031.5\"", 1.5 }, { "1.5x", 0 }, { "\"0x10\"", 0 }, { "\"inf\"", 0 }, { "\"nan\"", 0 },
    { "\"1,5\"", 0 }, { "\"\"", 0 }, { "\".5\"", 0 }, { "\"true\"", 0 }, { "true", 0 }, { "[1]", 0 }, { "", 0 }, { "\" 1\"", 0 } };

TEST(f64_rounds_as_strtod_does)
{
    size_t i;
    for (i = 0; i < sizeof doubles / sizeof *doubles; i++) {
        double value = f64_of(doubles[i].text);
        if (!CHECK(memcmp(&value, &doubles[i].value, sizeof value) == 0))
            fprintf(stderr, "  %s gives %.17g\n", doubles[i].text, value);
    }
    CHECK(f64_of("1e400") > 1.7e308 && f64_of("-1e400") < -1.7e308);
    CHECK(f64_of("1e99999999999999999999999") > 1.7e308);
}

TEST(f64_agrees_with_strtod_on_random_numbers)
{
    int i;
    chance_state = 20;
    for (i = 0; i < 20000; i++) {
        char text[64];
        double want, value;
        snprintf(text, sizeof text, "%s%u.%u%05ue%d", chance(2) ? "-" : "", chance(100000), chance(1000000), chance(100000),
                 (int)chance(640) - 330);
        want = strtod(text, NULL);
        value = f64_of(text);
        if (!CHECK(memcmp(&value, &want, sizeof value) == 0)) return;
    }
}

TEST(f64_does_not_depend_on_the_locale)
{
    static const char *const names[] = { "de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8", "fr_FR" };
    size_t i = 0;
    while (i < sizeof names / sizeof *names && !setlocale(LC_NUMERIC, names[i])) i++;
    CHECK(f64_of("1.5") > 1.4 && f64_of("1.5") < 1.6);
    setlocale(LC_NUMERIC, "C");
}

TEST(true_is_1_for_true_alone)
{
    gw_json v = json("[true,false,null,1,\"true\",[true]]");
    int i;
    for (i = 0; i < 7; i++) {
        char path[2] = { (char)('0' + i), 0 };
        CHECK_EQ(gw_true(&v, path), i == 0);
    }
}

TEST(is_compares_decoded_strings)
{
    gw_json v = json("{\"a\":\"x\\u0041\\n\\ud83d\\ude00\",\"b\":\"\",\"n\":5,\"z\":\"a\\u0000b\",\"p\":\"plain\"}");
    CHECK_EQ(gw_is(&v, "a", "xA\n\xF0\x9F\x98\x80"), 1);
    CHECK_EQ(gw_is(&v, "a", "xA\n\xF0\x9F\x98"), 0);
    CHECK_EQ(gw_is(&v, "a", "xA\n"), 0);
    CHECK_EQ(gw_is(&v, "a", "xA\n\xF0\x9F\x98\x80!"), 0);
    CHECK_EQ(gw_is(&v, "b", ""), 1);
    CHECK_EQ(gw_is(&v, "n", "5"), 0);
    CHECK_EQ(gw_is(&v, "z", "a"), 0);
    CHECK_EQ(gw_is(&v, "p", "plain"), 1);
    CHECK_EQ(gw_is(&v, "p", "plai"), 0);
    CHECK_EQ(gw_is(&v, "gone", ""), 0);
    CHECK_EQ(gw_is(&v, "p", NULL), 0);
}

static const char *text_of(const char *text, size_t cap, size_t full)
{
    static char out[128];
    gw_json v = json(text);
    memset(out, '#', sizeof out);
    CHECK_EQ(gw_text(&v, NULL, out, cap), full);
    if (cap < sizeof out) CHECK_EQ(out[cap], '#');
    return out;
}

TEST(text_decodes_escapes_and_surrogates)
{
    CHECK_TEXT(text_of("\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u20ac\"", 100, 12), "a\"\\/\b\f\n\r\t\xE2\x82\xAC");
    CHECK_TEXT(text_of("\"\\uD83D\\uDE00\"", 100, 4), "\xF0\x9F\x98\x80");
    CHECK_TEXT(text_of("\"\\uD83D\"", 100, 3), "\xEF\xBF\xBD");
    CHECK_TEXT(text_of("\"\\uDE00x\"", 100, 4), "\xEF\xBF\xBDx");
    CHECK_TEXT(text_of("\"\\uD83D\\uD83D\\uDE00\"", 100, 7), "\xEF\xBF\xBD\xF0\x9F\x98\x80");
    CHECK_TEXT(text_of("\"\\uD83D\\n\"", 100, 4), "\xEF\xBF\xBD\n");
    CHECK_TEXT(text_of("\"\\uD83Dabc\"", 100, 6), "\xEF\xBF\xBD" "abc");
    CHECK_BYTES(text_of("\"a\\u0000b\"", 100, 3), 4, "a\0b", 4);
}

TEST(text_is_cut_between_characters_and_tells_the_full_length)
{
    CHECK_TEXT(text_of("\"abcdef\"", 4, 6), "abc");
    CHECK_TEXT(text_of("\"abcdef\"", 7, 6), "abcdef");
    CHECK_TEXT(text_of("\"abcdef\"", 6, 6), "abcde");
    CHECK_TEXT(text_of("\"a\xC3\xA9\"", 3, 3), "a");
    CHECK_TEXT(text_of("\"a\xC3\xA9\"", 4, 3), "a\xC3\xA9");
    CHECK_TEXT(text_of("\"\\uD83D\\uDE00\"", 4, 4), "");
    CHECK_TEXT(text_of("\"\xF0\x9F\x98\x80z\"", 5, 5), "\xF0\x9F\x98\x80");
    CHECK_TEXT(text_of("\"x\"", 1, 1), "");
    CHECK_EQ(text_of("\"x\"", 0, 1)[0], '#');
}

TEST(text_of_other_kinds_is_as_written_or_empty)
{
    CHECK_TEXT(text_of("-1.50", 100, 5), "-1.50");
    CHECK_TEXT(text_of("true", 100, 4), "true");
    CHECK_TEXT(text_of("false", 4, 5), "fal");
    CHECK_TEXT(text_of("null", 100, 0), "");
    CHECK_TEXT(text_of("[1]", 100, 0), "");
    CHECK_TEXT(text_of("{}", 100, 0), "");
    CHECK_TEXT(text_of("", 100, 0), "");
    CHECK_TEXT(text_of("\"broken\\", 100, 0), "");
}

TEST(plain_points_into_the_text_unless_there_are_escapes)
{
    const char *text = "{\"a\":\"plain\",\"b\":\"es\\u0063\",\"n\":5,\"e\":\"\"}";
    gw_json v = json(text);
    size_t len = 99;
    CHECK(gw_plain(&v, "a", &len) == text + 6);
    CHECK_EQ(len, 5);
    CHECK(!gw_plain(&v, "b", &len));
    CHECK_EQ(len, 0);
    CHECK(!gw_plain(&v, "n", &len) && !gw_plain(&v, "gone", NULL));
    CHECK(gw_plain(&v, "e", &len) && len == 0);
}

/* ---- the index ---- */
static void force(gw__json_index *index)    /* as if much had been walked already */
{
    index->walked_bytes = UINT64_MAX / 2;
}

static gw_json indexed(gw__json_index *index, const char *text, size_t len)
{
    gw_json v;
    gw__json_index_point(index, text, len);
    force(index);
    v.ptr = text;
    v.len = len;
    v.index = index;
    return v;
}

TEST(index_is_made_after_the_text_was_walked_several_times)
{
    gw__mem mem;
    gw__json_index index;
    gw_json v;
    int i;
    gw__mem_init(&mem, NULL, NULL);
    gw__json_index_init(&index, &mem, 1000);
    v = indexed(&index, message, sizeof message - 1);
    index.walked_bytes = 0;
    for (i = 0; i < 3; i++) CHECK(gw_is(&v, "content", "!ping"));
    CHECK_EQ(index.state, GW__JSON_INDEX_NONE);
    CHECK_U64(mem.now_bytes, 0);
    for (i = 0; i < 40; i++) CHECK(gw_is(&v, "content", "!ping"));
    CHECK_EQ(index.state, GW__JSON_INDEX_READY);
    CHECK(index.cap == 64 && index.count > 32);
    gw__json_index_free(&index);
    CHECK_U64(mem.now_bytes, 0);
}

TEST(index_answers_for_slices_found_inside)
{
    gw__mem mem;
    gw__json_index index;
    gw_json v, author, item = GW_INIT, key;
    gw__mem_init(&mem, NULL, NULL);
    gw__json_index_init(&index, &mem, 1000);
    v = indexed(&index, message, sizeof message - 1);
    CHECK_EQ(gw_get(&v, "author", &author), 1);
    CHECK(author.index == &index);
    CHECK_U64(gw_u64(&author, "id"), UINT64_C(80351110224678912));
    CHECK_EQ(gw_get(&v, "roles", &v), 1);
    CHECK_EQ(gw_next(&v, &key, &item), 1);
    CHECK_EQ(gw_next(&v, &key, &item), 1);
    CHECK_EQ(gw_next(&v, &key, &item), 1);
    CHECK(item.index == &index);
    CHECK(gw_is(&item, "a.b.2.c", "deep"));
    item.len--;                             /* not one of its slices any more: walked */
    CHECK(gw_is(&item, "a.b.2.c", "deep"));
    CHECK_EQ(index.state, GW__JSON_INDEX_READY);
    gw__json_index_free(&index);
}

TEST(index_gives_way_to_the_walker_above_its_maximum_and_without_memory)
{
    static char block[1024];
    gw__mem mem;
    gw__json_index index;
    gw_json v;
    gw__mem_init(&mem, NULL, NULL);
    gw__json_index_init(&index, &mem, 30);
    v = indexed(&index, message, sizeof message - 1);
    CHECK(gw_is(&v, "content", "!ping"));
    CHECK_EQ(index.state, GW__JSON_INDEX_UNUSABLE);
    CHECK_EQ(index.cap, 30);
    gw__json_index_point(&index, "[7]", 3);     /* the next event fits */
    force(&index);
    v = json("[7]");
    v = indexed(&index, v.ptr, v.len);
    CHECK_U64(gw_u64(&v, "0"), 7);
    CHECK_EQ(index.state, GW__JSON_INDEX_READY);
    gw__json_index_free(&index);
    CHECK(gw__mem_init_block(&mem, block, sizeof block));
    gw__json_index_init(&index, &mem, 1000);
    v = indexed(&index, message, sizeof message - 1);
    CHECK(gw_is(&v, "content", "!ping"));
    CHECK_EQ(index.state, GW__JSON_INDEX_UNUSABLE);
    gw__json_index_free(&index);
}

TEST(index_gives_a_huge_array_back_at_the_next_event)
{
    static char text[40001];
    gw__mem mem;
    gw__json_index index;
    gw_json v;
    size_t i;
    text[0] = '[';
    for (i = 1; i < sizeof text - 1; i += 2) text[i] = '1', text[i + 1] = ',';
    text[sizeof text - 1] = ']';
    text[sizeof text - 2] = '1';
    text[sizeof text - 3] = '1';
    gw__mem_init(&mem, NULL, NULL);
    gw__json_index_init(&index, &mem, 100000);
    v = indexed(&index, text, sizeof text);
    CHECK_U64(gw_u64(&v, "7"), 1);
    CHECK_EQ(index.state, GW__JSON_INDEX_READY);
    CHECK(index.count > 19000);
    gw__json_index_point(&index, "[]", 2);
    CHECK_EQ(index.cap, 0);
    CHECK_U64(mem.now_bytes, 0);
    gw__json_index_free(&index);
}

TEST(lookups_pass_100000_nested_brackets)
{
    enum { DEPTH = 100000 };
    char *text = (char *)malloc(2 * DEPTH + 32);
    gw__mem mem;
    gw__json_index index;
    gw_json v, found;
    size_t len;
    strcpy(text, "{\"deep\":");
    memset(text + 8, '[', DEPTH);
    memset(text + 8 + DEPTH, ']', DEPTH);
    strcpy(text + 8 + 2 * DEPTH, ",\"after\":5}");
    len = strlen(text);
    gw__mem_init(&mem, NULL, NULL);
    gw__json_index_init(&index, &mem, 4000000);
    v = indexed(&index, text, len);
    CHECK_U64(gw_u64(&v, "after"), 5);
    CHECK_EQ(index.state, GW__JSON_INDEX_UNUSABLE);     /* deeper than the check looks */
    CHECK_EQ(gw_get(&v, "deep.0.0.0.0", &found), 1);
    CHECK_EQ(found.len, 2 * (DEPTH - 4));
    memset(text + 8, '[', 2 * DEPTH);                   /* and none closes */
    CHECK_U64(gw_u64(&v, "after"), 0);
    gw__json_index_free(&index);
    free(text);
}

/* ---- both ways of looking up, and the check, against each other on random text ---- */
static char made[4096];
static size_t made_len;

static void make(const char *text)
{
    size_t len = strlen(text);
    if (made_len + len >= sizeof made) return;
    memcpy(made + made_len, text, len);
    made_len += len;
    made[made_len] = 0;
}

static void make_space(void)
{
    static const char *const spaces[] = { "", "", "", "", " ", "\n", "\t ", "\r" };
    make(spaces[chance(8)]);
}

static void make_key(void)
{
    static const char *const keys[] = { "\"a\"", "\"b\"", "\"c\"", "\"\\u0061\"", "\"0\"", "\"1\"", "\"\"", "\"a.b\"", "\"ab\"" };
    make(keys[chance(9)]);
}

static void make_value(uint32_t depth)
{
    static const char *const scalars[] = { "1", "-0.5e+7", "true", "false", "null", "\"\"", "\"x\"", "\"\\ud83d\\ude00\"", "\"]}\"",
                                           "\"\\\"\"", "\"12\"", "0", "\"\\\\\"", "\"something longer than eight\"" };
    uint32_t kind = chance(depth ? 6 : 2), count, i;
    if (kind < 2) {
        make(scalars[chance(14)]);
        return;
    }
    make(kind < 4 ? "{" : "[");
    count = chance(4);
    for (i = 0; i < count; i++) {
        if (i) make(",");
        make_space();
        if (kind < 4) make_key(), make_space(), make(":"), make_space();
        make_value(depth - 1);
        make_space();
    }
    make(kind < 4 ? "}" : "]");
}

static void mutate(void)
{
    static const char bytes[] = "{}[]\",:\\ 0ta.u\n\x01\xC3";
    size_t at = chance((uint32_t)made_len), rest;
    switch (chance(3)) {
    case 0: made[at] = bytes[chance(sizeof bytes - 1)]; break;
    case 1: made_len = at; break;
    case 2:
        rest = made_len - at - 1;
        memmove(made + at, made + at + 1, rest);
        made_len--;
        break;
    }
    made[made_len] = 0;
}

/* An independent reading of RFC 8259, by recursion and with other means than the room's. */
static const char *strict_value(const char *at);

static const char *strict_space(const char *at)
{
    return at + strspn(at, " \t\r\n");
}

static const char *strict_string(const char *at)
{
    if (*at++ != '"') return NULL;
    while (*at != '"') {
        if ((unsigned char)*at < 32) return NULL;
        if (*at == '\\' && at[1] == 'u') {
            if (strspn(at + 2, "0123456789abcdefABCDEF") < 4) return NULL;
            at += 6;
        } else if (*at == '\\') {
            if (!at[1] || !strchr("\"\\/bfnrt", at[1])) return NULL;
            at += 2;
        } else at++;
    }
    return at + 1;
}

static const char *strict_number(const char *at)
{
    size_t digits;
    at += *at == '-';
    digits = strspn(at, "0123456789");
    if (digits == 0 || (*at == '0' && digits > 1)) return NULL;
    at += digits;
    if (*at == '.') {
        digits = strspn(++at, "0123456789");
        if (digits == 0) return NULL;
        at += digits;
    }
    if (*at != 'e' && *at != 'E') return at;
    at++;
    at += *at == '+' || *at == '-';
    digits = strspn(at, "0123456789");
    return digits ? at + digits : NULL;
}

static const char *strict_members(const char *at, int object)
{
    at = strict_space(at + 1);
    if (*at == (object ? '}' : ']')) return at + 1;
    for (;;) {
        if (object) {
            at = strict_string(strict_space(at));
            if (!at || *(at = strict_space(at)) != ':') return NULL;
            at++;
        }
        at = strict_value(strict_space(at));
        if (!at) return NULL;
        at = strict_space(at);
        if (*at == (object ? '}' : ']')) return at + 1;
        if (*at++ != ',') return NULL;
    }
}

static const char *strict_value(const char *at)
{
    if (*at == '{' || *at == '[') return strict_members(at, *at == '{');
    if (*at == '"') return strict_string(at);
    if (strncmp(at, "true", 4) == 0 || strncmp(at, "null", 4) == 0) return at + 4;
    if (strncmp(at, "false", 5) == 0) return at + 5;
    return strict_number(at);
}

static int strict(const char *text)
{
    const char *end = strict_value(strict_space(text));
    return end && *strict_space(end) == 0;
}

static const char *const random_paths[] = { "a", "b", "0", "1", "c.a", "a.0", "0.a", "a.b.c", "1.1", "a.a", "0.0.0", "ab", "b.1.a", "2",
                                            "x", NULL, "", "a.", "..", ".a", "0.", "c" };
enum { PATHS = sizeof random_paths / sizeof *random_paths };

static int same(const gw_json *a, const gw_json *b)
{
    return a->ptr == b->ptr && a->len == b->len;
}

static uint32_t members(const gw_json *container)
{
    gw_json value = GW_INIT, key;
    uint32_t sum = 0;
    value.index = container->index;
    while (gw_next(container, &key, &value))
        sum = sum * 31 + (uint32_t)(value.ptr - container->ptr) + (uint32_t)value.len + (uint32_t)key.len;
    return sum;
}

/* Every path by the walker, by the index, and by pick both ways; then one step further from what was found. */
static void compare_lookups(gw__json_index *index, const char *text, size_t len)
{
    gw_json plain = GW_INIT, with, one, two, deeper, picked[PATHS], picked_with[PATHS];
    size_t i;
    plain.ptr = text;
    plain.len = len;
    with = indexed(index, text, len);
    gw_pick(&plain, random_paths, PATHS - 7, picked);       /* without those that are the value itself */
    gw_pick(&with, random_paths, PATHS - 7, picked_with);
    for (i = 0; i < PATHS; i++) {
        gw_get(&plain, random_paths[i], &one);
        gw_get(&with, random_paths[i], &two);
        if (!CHECK(same(&one, &two) && gw_kind_of(&one, NULL) == gw_kind_of(&two, NULL)))
            fprintf(stderr, "  %s in %.*s\n", random_paths[i] ? random_paths[i] : "NULL", (int)len, text);
        if (i < PATHS - 7) CHECK(same(&one, &picked[i]) && same(&one, &picked_with[i]));
        CHECK_EQ(members(&one), members(&two));
        deeper = one;
        gw_get(&deeper, "a", &deeper);
        gw_get(&two, "a", &two);
        CHECK(same(&deeper, &two));
    }
}

TEST(both_engines_and_the_check_agree_on_random_text)
{
    gw__mem mem;
    gw__json_index index;
    int round, valid = 0, broken = 0;
    gw__mem_init(&mem, NULL, NULL);
    gw__json_index_init(&index, &mem, 300);
    chance_state = 12345;
    for (round = 0; round < 20000 && !check_failures; round++) {
        uint32_t mutations = (uint32_t)round % 3;
        char *text;
        made_len = 0;
        make_space();
        make_value(6);
        make_space();
        while (mutations-- > 0 && made_len > 0) mutate();
        if (!CHECK_EQ(gw__json_check(made, made_len), strict(made))) fprintf(stderr, "  %s\n", made);
        strict(made) ? valid++ : broken++;
        text = exact(made, made_len);
        compare_lookups(&index, text, made_len);
        free(text);
    }
    CHECK(valid > 5000 && broken > 5000);
    gw__json_index_free(&index);
}

TEST(scan_takes_every_valid_d_and_gives_it_back_byte_by_byte)
{
    int round;
    chance_state = 777;
    for (round = 0; round < 2000 && !check_failures; round++) {
        char text[sizeof made + 64];
        made_len = 0;
        make_value(3);
        if (made_len > 400) continue;
        snprintf(text, sizeof text, "{\"s\":3,\"d\":%s,\"op\":0}", made);
        scanned(text);
        CHECK(strncmp(scan_log, "s=3 d=", 6) == 0);
        CHECK(strncmp(scan_log + 6, made, made_len) == 0);
        CHECK_TEXT(scan_log + 6 + made_len, " op=0 end");
    }
}

TEST(scan_of_mutated_envelopes_is_the_same_in_all_pieces)
{
    int round;
    chance_state = 4242;
    for (round = 0; round < 5000 && !check_failures; round++) {
        uint32_t mutations = 1 + chance(2);
        made_len = 0;
        make("{\"t\":\"A\\u0042\",\"s\":12,\"op\":0,\"d\":");
        make_value(2);
        make(",\"x\":");
        make_value(1);
        make("}");
        if (made_len > 500) continue;
        while (mutations-- > 0 && made_len > 0) mutate();
        scanned_len(made, made_len);
    }
}

/* ---- writing ---- */
static const char *quoted(const char *text, size_t len, size_t cap, size_t full)
{
    static char out[128];
    memset(out, '#', sizeof out);
    CHECK_EQ(gw_quote(text, len, out, cap), full);
    CHECK_EQ(out[cap], '#');
    return out;
}

TEST(quote_escapes_what_must_be_and_replaces_what_is_not_utf8)
{
    CHECK_TEXT(quoted("a", 1, 100, 3), "\"a\"");
    CHECK_TEXT(quoted("", 0, 100, 2), "\"\"");
    CHECK_TEXT(quoted(NULL, 0, 100, 2), "\"\"");
    CHECK_TEXT(quoted("\"\\/\b\f\n\r\t", 8, 100, 17), "\"\\\"\\\\/\\b\\f\\n\\r\\t\"");
    CHECK_TEXT(quoted("\0\x01\x0b\x1f\x7f", 5, 100, 27), "\"\\u0000\\u0001\\u000b\\u001f\x7f\"");
    CHECK_TEXT(quoted("\xC3\xA9\xF0\x9F\x98\x80", 6, 100, 8), "\"\xC3\xA9\xF0\x9F\x98\x80\"");
    CHECK_TEXT(quoted("x\xFFy", 3, 100, 7), "\"x\xEF\xBF\xBDy\"");
    CHECK_TEXT(quoted("\xC3", 1, 100, 5), "\"\xEF\xBF\xBD\"");
    CHECK_TEXT(quoted("\xC3\"", 2, 100, 7), "\"\xEF\xBF\xBD\\\"\"");
    CHECK_TEXT(quoted("\xED\xA0\x80", 3, 100, 11), "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");
}

TEST(quote_writes_all_or_nothing)
{
    CHECK_TEXT(quoted("abc", 3, 6, 5), "\"abc\"");
    CHECK_TEXT(quoted("abc", 3, 5, 5), "");
    CHECK_TEXT(quoted("abc", 3, 1, 5), "");
    CHECK_EQ(quoted("abc", 3, 0, 5)[0], '#');
    CHECK_EQ(gw_quote("abc", 3, NULL, 0), 5);
}

TEST(quote_and_text_are_each_others_inverse)
{
    int round;
    chance_state = 99;
    for (round = 0; round < 2000; round++) {
        char text[64], json_text[400], back[64];
        gw_json v;
        size_t len = 0, count = chance(12), i;
        for (i = 0; i < count; i++) {
            uint32_t code = chance(4) ? chance(0x80) : chance(0xD800);
            len += (size_t)gw__json_put_utf8(text + len, code);
        }
        CHECK(gw_quote(text, len, json_text, sizeof json_text) < sizeof json_text);
        v = json(json_text);
        CHECK(gw__json_is_valid(v.ptr, v.len));
        CHECK_EQ(gw_text(&v, NULL, back, sizeof back), len);
        CHECK_BYTES(back, len, text, len);
    }
}

TEST(writer_sets_commas_and_escapes)
{
    static const char want[] = "{\"op\":2,\"d\":{\"token\":\"a\\\"b\",\"shard\":[0,18446744073709551615,-9223372036854775808],"
                               "\"e\":{},\"f\":[],\"id\":\"80351110224678912\",\"t\":true,\"g\":false,\"n\":null,\"r\":[1],\"z\":[[],{\"a\":0}]}}";
    gw__mem mem;
    gw__buf buf;
    gw__json_writer w;
    gw__mem_init(&mem, NULL, NULL);
    gw__buf_init(&buf, &mem, 4096);
    gw__json_write_begin(&w, &buf);
    gw__json_write_open(&w, '{');
    gw__json_write_key(&w, "op");
    gw__json_write_u64(&w, 2);
    gw__json_write_key(&w, "d");
    gw__json_write_open(&w, '{');
    gw__json_write_key(&w, "token");
    gw__json_write_text(&w, "a\"b", 3);
    gw__json_write_key(&w, "shard");
    gw__json_write_open(&w, '[');
    gw__json_write_u64(&w, 0);
    gw__json_write_u64(&w, UINT64_MAX);
    gw__json_write_i64(&w, INT64_MIN);
    gw__json_write_close(&w, ']');
    gw__json_write_key(&w, "e");
    gw__json_write_open(&w, '{');
    gw__json_write_close(&w, '}');
    gw__json_write_key(&w, "f");
    gw__json_write_open(&w, '[');
    gw__json_write_close(&w, ']');
    gw__json_write_key(&w, "id");
    gw__json_write_id(&w, UINT64_C(80351110224678912));
    gw__json_write_key(&w, "t");
    gw__json_write_true(&w, 5);
    gw__json_write_key(&w, "g");
    gw__json_write_true(&w, 0);
    gw__json_write_key(&w, "n");
    gw__json_write_null(&w);
    gw__json_write_key(&w, "r");
    gw__json_write_raw(&w, "[1]", 3);
    gw__json_write_key(&w, "z");
    gw__json_write_open(&w, '[');
    gw__json_write_open(&w, '[');
    gw__json_write_close(&w, ']');
    gw__json_write_open(&w, '{');
    gw__json_write_key(&w, "a");
    gw__json_write_i64(&w, 0);
    gw__json_write_close(&w, '}');
    gw__json_write_close(&w, ']');
    gw__json_write_close(&w, '}');
    gw__json_write_close(&w, '}');
    CHECK_EQ(w.failed, 0);
    CHECK_BYTES(gw__buf_data(&buf), gw__buf_len(&buf), want, sizeof want - 1);
    CHECK(gw__json_is_valid((const char *)gw__buf_data(&buf), gw__buf_len(&buf)));
    gw__buf_free(&buf);
}

TEST(writer_remembers_that_an_append_failed)
{
    gw__mem mem;
    gw__buf buf;
    gw__json_writer w;
    gw__mem_init(&mem, NULL, NULL);
    gw__buf_init(&buf, &mem, 8);
    gw__json_write_begin(&w, &buf);
    gw__json_write_open(&w, '[');
    gw__json_write_text(&w, "123456789", 9);
    gw__json_write_null(&w);
    gw__json_write_close(&w, ']');
    CHECK_EQ(w.failed, 1);
    CHECK(gw__buf_len(&buf) <= 8);
    gw__buf_free(&buf);
}

/* ---- the fast paths against their portable twins ---- */
static uint32_t twin_state;
static uint32_t twin_random(uint32_t below)
{
    twin_state = twin_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)twin_state * below >> 32);
}

static int has_high(const char *text, size_t len)
{
    size_t i;
    for (i = 0; i < len; i++) if ((uint8_t)text[i] >= 0x80) return 1;
    return 0;
}

/* How often a piece was seen to be ASCII, by the way that is used and by SSE2. */
static uint32_t ascii_fast, ascii_third;

/* The nest as all see it, in pieces that are cut alike: answer, bytes used, state. */
static void compare_twins(const char *text, size_t len)
{
    gw__json_nest fast, plain;
    size_t at = 0, part, fast_used, plain_used;
    int fast_says, plain_says;
#ifdef GW__SIMD
    gw__json_nest third;        /* on a machine with AVX2, `fast` does not show SSE2's way */
    size_t third_used;
    int third_says;
    memset(&third, 0, sizeof third);
#endif
    memset(&fast, 0, sizeof fast);
    memset(&plain, 0, sizeof plain);
    while (at < len) {
        part = 1 + twin_random(200);
        part = part < len - at ? part : len - at;
        fast_says = gw__json_nest_push(&fast, text + at, part, &fast_used);
        plain_says = gw__json_nest_push_plain(&plain, text + at, part, &plain_used);
#ifdef GW__SIMD
        third_says = gw__json_nest_push_sse2(&third, text + at, part, &third_used);
        CHECK_EQ(third_says, plain_says);
        CHECK_U64(third_used, plain_used);
        CHECK(third.is_text || !has_high(text + at, third_used));
        ascii_third += !third.is_text;
        if (!plain_says) CHECK_U64(third.depth * 4 + third.in_string * 2 + third.escaped,
                                   plain.depth * 4 + plain.in_string * 2 + plain.escaped);
#endif
        if (!CHECK_EQ(fast_says, plain_says) || !CHECK_U64(fast_used, plain_used)) {
            fprintf(stderr, "    %.*s\n", (int)len, text);
            return;
        }
        CHECK(fast.is_text || !has_high(text + at, fast_used));
        ascii_fast += !fast.is_text;
        if (plain_says) {
            if (plain_says < 0) CHECK_TEXT(fast.why, plain.why);
            return;
        }
        CHECK_U64(fast.depth, plain.depth);
        CHECK_EQ(fast.in_string, plain.in_string);
        CHECK_EQ(fast.escaped, plain.escaped);
        at += part;
    }
}

TEST(scan_by_blocks_reads_as_byte_by_byte)
{
    static const char alphabet[] = "{}[]\"\\,:aA1 \n\xc3\xa9";
    static char text[2000];
    uint32_t round, i, len, kinds;
    twin_state = 1;
    for (round = 0; round < 30000; round++) {
        len = 1 + twin_random(round % 10 ? 300 : 1900);
        kinds = 2 + twin_random((uint32_t)sizeof alphabet - 2);
        for (i = 0; i < len; i++) {
            uint32_t dense = twin_random(4);
            text[i] = dense ? 'x' : alphabet[twin_random(kinds)];
        }
        text[0] = '{';
        compare_twins(text, len);
        if (check_failures) return;
    }
#ifdef GW__SIMD
    CHECK(ascii_fast > 10000 && ascii_third > 10000);
#endif
}

/* What is found of an envelope, with and without the short cut for the usual order. */
TEST(scan_of_the_usual_order_stands_where_the_slow_one_stands)
{
    static const char *const beginnings[] = {
        "{\"t\":\"MESSAGE_CREATE\",\"s\":42,\"op\":0,\"d\":{\"a\":\"", "{\"t\":\"X\",\"s\":0,\"op\":0,\"d\":{\"a\":\"",
        "{\"t\":\"\",\"s\":9,\"op\":0,\"d\":{\"a\":\"", "{\"t\":\"X\",\"s\":9007199254740993,\"op\":0,\"d\":{\"a\":\"",
        "{\"t\":\"X\",\"s\":18446744073709551615,\"op\":0,\"d\":{\"a\":\"",
        "{\"t\":\"X\",\"s\":01,\"op\":0,\"d\":{\"a\":\"", "{\"t\":\"x\",\"s\":1,\"op\":0,\"d\":{\"a\":\"",
        "{\"t\":\"X\",\"s\":1,\"op\":0,\"d\":[{\"a\":\"", "{\"t\":\"X\",\"s\":null,\"op\":0,\"d\":{\"a\":\"",
        "{\"t\":\"X\\u0041\",\"s\":1,\"op\":0,\"d\":{\"a\":\"", "{\"t\":\"X\",\"s\":1,\"op\":1,\"d\":{\"a\":\"",
        "{ \"t\":\"X\",\"s\":1,\"op\":0,\"d\":{\"a\":\"", "{\"t\":\"X\",\"s\":1,\"op\":0,\"d\":null,\"a\":{\"a\":\"" };
    char text[600];
    size_t i, used, slow_used, begin;
    for (i = 0; i < sizeof beginnings / sizeof *beginnings; i++) {
        gw__json_scan fast, slow;
        memset(text, 'y', sizeof text);
        begin = strlen(beginnings[i]);
        memcpy(text, beginnings[i], begin);
        memcpy(text + sizeof text - 3, "\"}}", 3);
        gw__json_scan_begin(&fast);
        gw__json_scan_begin(&slow);
        if (!gw__json_scan_usual(&fast, (const uint8_t *)text, sizeof text, &used)) {
            CHECK(i >= 2);
            CHECK_EQ(fast.place, slow.place);       /* nothing has happened */
            continue;
        }
        for (slow_used = 0;;) {
            gw__json_found found = gw__json_scan_next(&slow, (const uint8_t *)text + slow_used,
                                                      sizeof text - slow_used, &begin);
            slow_used += begin;
            if (!CHECK(found != GW__JSON_BROKEN && found != GW__JSON_NEED_MORE)) break;
            if (found == GW__JSON_D_BEGIN) break;
        }
        CHECK_U64(used, slow_used);
        CHECK_TEXT(fast.name, slow.name);
        CHECK_U64(fast.name_len, slow.name_len);
        CHECK_U64(fast.seq, slow.seq);
        CHECK_U64(fast.op, slow.op);
        CHECK_EQ(fast.has_name + fast.has_seq + fast.has_op, 3);
        CHECK_EQ(fast.place, GW__JSON_IN_NEST);
        CHECK_EQ(fast.field, slow.field);
        CHECK_EQ(fast.d_begun, slow.d_begun);
        CHECK_EQ(gw__json_scan_next(&fast, (const uint8_t *)text + used, sizeof text - used, &begin), GW__JSON_D_END);
        CHECK_U64(begin, sizeof text - used - 1);
    }
}

CHECK_MAIN()
