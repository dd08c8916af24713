/* Room url: what an address may be, and who may stand in for whom. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "check.h"

static gw__url url;
static gw__fault fault;

static int parse_bytes(const char *text, size_t len)
{
    memset(&fault, 0, sizeof fault);
    return gw__url_parse(&url, text, len, &fault);
}

static int parse(const char *text)
{
    return parse_bytes(text, strlen(text));
}

/* The address must be taken, and written again must read as `written`. */
static void takes(const char *text, const char *written)
{
    char out[GW__HOST_MAX + GW__PATH_MAX];
    size_t len;
    if (!CHECK(parse(text))) {
        fprintf(stderr, "  %s: %s\n", text, fault.text);
        return;
    }
    len = gw__url_write(&url, out, sizeof out);
    CHECK_TEXT(out, written);
    CHECK_EQ(len, strlen(written));
    CHECK_EQ(fault.reason, GW_REASON_NONE);
    CHECK(parse(out));      /* and what we write we read */
}

static void refuses(const char *text, const char *sentence_part)
{
    if (!CHECK(!parse(text))) fprintf(stderr, "  %s\n", text);
    CHECK_EQ(fault.reason, GW_REASON_CONFIG);
    CHECK_HAS(fault.text, sentence_part);
}

TEST(url_takes_the_four_schemes_with_their_ports)
{
    takes("wss://gateway.discord.gg", "wss://gateway.discord.gg/");
    CHECK_EQ(url.port, 443); CHECK_EQ(url.secure, 1); CHECK_EQ(url.http, 0);
    takes("ws://localhost", "ws://localhost/");
    CHECK_EQ(url.port, 80); CHECK_EQ(url.secure, 0); CHECK_EQ(url.http, 0);
    takes("https://discord.com/api/v10/gateway/bot", "https://discord.com/api/v10/gateway/bot");
    CHECK_EQ(url.port, 443); CHECK_EQ(url.secure, 1); CHECK_EQ(url.http, 1);
    takes("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/x");
    CHECK_EQ(url.port, 8080); CHECK_EQ(url.secure, 0); CHECK_EQ(url.http, 1);
}

TEST(url_lowers_scheme_and_host_but_not_the_path)
{
    takes("WSS://Gateway.Discord.GG/PaTh?Q=A", "wss://gateway.discord.gg/PaTh?Q=A");
    CHECK_TEXT(url.host, "gateway.discord.gg");
    CHECK_TEXT(url.target, "/PaTh?Q=A");
    takes("wss://[2001:DB8::A]/", "wss://[2001:db8::a]/");
    CHECK_TEXT(url.host, "2001:db8::a");
}

TEST(url_leaves_the_default_port_out_when_it_writes)
{
    takes("wss://a.b:443/", "wss://a.b/");
    takes("ws://a.b:80", "ws://a.b/");
    takes("wss://a.b:80", "wss://a.b:80/");
    takes("ws://[::1]:443", "ws://[::1]:443/");
    takes("wss://a.b:1", "wss://a.b:1/");
    takes("wss://a.b:65535", "wss://a.b:65535/");
    takes("wss://a.b:00443", "wss://a.b/");
}

TEST(url_inserts_the_slash_that_a_query_lacks)
{
    takes("wss://a.b?v=10", "wss://a.b/?v=10");
    takes("wss://a.b:81?v=10/x?y", "wss://a.b:81/?v=10/x?y");
    takes("wss://a.b/?", "wss://a.b/?");
}

TEST(url_refuses_an_unknown_or_missing_scheme)
{
    refuses("", "wss://host");
    refuses("wss:/", "wss://host");
    refuses("gateway.discord.gg", "wss://host");
    refuses("ftp://a.b", "wss://host");
    refuses("wss:/a.b", "wss://host");
    refuses("://a.b", "wss://host");
}

TEST(url_refuses_a_missing_host)
{
    refuses("wss://", "has no host");
    refuses("wss:///path", "has no host");
    refuses("wss://?v=10", "has no host");
    refuses("wss://:443", "has no host");
}

TEST(url_refuses_a_user_name_and_does_not_repeat_it)
{
    refuses("wss://user:secret@a.b/", "'@'");
    CHECK(!strstr(fault.text, "secret"));
    refuses("wss://@a.b", "'@'");
    refuses("wss://user:sec?ret@a.b/", "port");     /* the host ends at '?' */
    CHECK(!strstr(fault.text, "sec"));
}

TEST(url_refuses_bytes_that_could_end_a_request_line)
{
    char text[] = "wss://a.b/x?";
    int byte;
    for (byte = 0; byte < 256; byte++) {
        int fine = byte > 0x20 && byte < 0x7f && byte != '#';
        text[10] = (char)byte;
        CHECK_EQ(parse_bytes(text, sizeof text - 1), fine);
        if (!fine) CHECK(fault.text[0]);
    }
    refuses("wss://a.b/x\r\nHost: evil", "control byte");
    refuses("wss://a.b\n", "line end");
    refuses("wss://a.b/a b", "space");
    refuses("wss://a.b/#top", "fragment");
    refuses("wss://b\xc3\xbc" "cher.example/", "punycode");
    takes("wss://xn--bcher-kva.example/", "wss://xn--bcher-kva.example/");
}

TEST(url_refuses_hosts_that_are_no_names)
{
    char label[] = "wss://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/";
    char text[6 + 256 + 1];
    CHECK_EQ(sizeof label - 1, 6 + 63 + 1);
    takes(label, label);
    label[sizeof label - 2] = 'a';
    refuses(label, "1 to 63");
    refuses("wss://a..b", "single dots");
    refuses("wss://.a.b", "single dots");
    refuses("wss://a.b.", "no dot at the end");
    refuses("wss://a,b", "letters");
    refuses("wss://a.b\\evil", "letters");
    refuses("wss://a%62", "letters");
    refuses("wss://a*b", "letters");
    takes("wss://my_service", "wss://my_service/");
    memset(text, 'a', sizeof text);
    memcpy(text, "wss://", 6);
    text[6 + 60] = text[6 + 120] = text[6 + 180] = text[6 + 240] = '.';
    CHECK(parse_bytes(text, 6 + 253));
    CHECK_EQ(strlen(url.host), 253);
    CHECK(!parse_bytes(text, 6 + 254));
    CHECK_HAS(fault.text, "253");
}

TEST(url_takes_ipv4_only_as_four_plain_decimals)
{
    takes("ws://127.0.0.1:1", "ws://127.0.0.1:1/");
    takes("wss://255.255.255.255", "wss://255.255.255.255/");
    takes("wss://1.2.3.4.example", "wss://1.2.3.4.example/");
    takes("wss://0x.example", "wss://0x.example/");
    takes("wss://a.1b", "wss://a.1b/");
    takes("wss://a.x", "wss://a.x/");
    refuses("ws://127.1", "IPv4");
    refuses("ws://0x7f.0.0.0x1", "IPv4");
    refuses("ws://2130706433", "IPv4");
    refuses("ws://127.0.0.01", "IPv4");
    refuses("ws://127.0.0.256", "IPv4");
    refuses("ws://127.0.0.1.1", "IPv4");
    refuses("ws://127.0.0.1111", "IPv4");
    refuses("ws://a.b.c.1", "IPv4");
    refuses("ws://0x7f000001", "IPv4");
}

/* RFC 4291 section 2.2 and its examples. */
TEST(url_takes_ipv6_in_all_its_writings)
{
    static const char *const good[] = {
        "ABCD:EF01:2345:6789:ABCD:EF01:2345:6789", "2001:DB8:0:0:8:800:200C:417A", "2001:DB8::8:800:200C:417A",
        "FF01::101", "::1", "::", "1::", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "0:0:0:0:0:0:13.1.68.3", "::FFFF:129.144.52.38",
        "1:2:3:4:5:6:1.2.3.4", "1::1.2.3.4", "::1.2.3.4"
    };
    static const char *const bad[] = {
        "", ":", ":::", "1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "::1::", "1:2:3:4:5:6:7:8::", "::1:2:3:4:5:6:7:8",
        "12345::", "g::", "1:", ":1", "1:2:", "::1:", "fe80::1%eth0", "1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3", "::1.2.3.256",
        "1.2.3.4::", "::1.2.3.4:5", "1:2:3:4:5:6:7:8:1.2.3.4", "1:2:3:4:5:6:7:8:"
    };
    char text[80];
    uint8_t address[16];
    size_t i;
    for (i = 0; i < sizeof good / sizeof *good; i++) {
        gw__text_format(text, sizeof text, "wss://[%s]:99/x", good[i]);
        if (!CHECK(parse(text))) fprintf(stderr, "  %s\n", text);
        CHECK(gw__url_is_ip(good[i]) || strchr(good[i], '.'));
        CHECK_EQ(url.port, 99);
    }
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        gw__text_format(text, sizeof text, "wss://[%s]:99/x", bad[i]);
        if (!CHECK(!parse(text))) fprintf(stderr, "  %s\n", text);
        CHECK_HAS(fault.text, "IPv6");
    }
    CHECK(gw__url_ipv6("2001:DB8::8:800:200C:417A", 25, address));
    CHECK_BYTES(address, 16, "\x20\x01\x0d\xb8\0\0\0\0\0\x08\x08\0\x20\x0c\x41\x7a", 16);
    CHECK(gw__url_ipv6("1::1.2.3.4", 10, address));
    CHECK_BYTES(address, 16, "\0\1\0\0\0\0\0\0\0\0\0\0\1\2\3\4", 16);
    refuses("wss://[::1", "brackets");
    refuses("wss://[::1]443", "port");
    refuses("wss://::1", "host");
}

TEST(url_refuses_ports_outside_1_to_65535)
{
    refuses("wss://a.b:0", "1 to 65535");
    refuses("wss://a.b:65536", "1 to 65535");
    refuses("wss://a.b:", "1 to 65535");
    refuses("wss://a.b:-1", "1 to 65535");
    refuses("wss://a.b:+1", "1 to 65535");
    refuses("wss://a.b:80x", "1 to 65535");
    refuses("wss://a.b:000443", "1 to 65535");
    refuses("wss://a.b:18446744073709551617", "1 to 65535");
}

TEST(url_bounds_the_path)
{
    char text[16 + GW__PATH_MAX];
    memset(text, 'p', sizeof text);
    memcpy(text, "wss://a.b/", 10);
    CHECK(parse_bytes(text, 9 + GW__PATH_MAX - 1));
    CHECK_EQ(strlen(url.target), GW__PATH_MAX - 1);
    CHECK(!parse_bytes(text, 9 + GW__PATH_MAX));
    CHECK_HAS(fault.text, "path");
    text[9] = '?';
    CHECK(parse_bytes(text, 9 + GW__PATH_MAX - 2));
    CHECK_EQ(strlen(url.target), GW__PATH_MAX - 1);
    CHECK(!parse_bytes(text, 9 + GW__PATH_MAX - 1));
}

/* Cut anywhere an address is another address or a sentence, and never reads behind its end. */
TEST(url_cut_short_at_every_length_is_taken_or_explained)
{
    static const char whole[] = "wss://[2001:db8::1.2.3.4]:8443/path?own=1";
    size_t len;
    for (len = 0; len < sizeof whole; len++) {
        char *exact = (char *)malloc(len + 1);
        int taken;
        if (!CHECK(exact)) return;
        memcpy(exact, whole, len);
        taken = parse_bytes(exact, len);
        CHECK_EQ(taken, len >= strlen("wss://[2001:db8::1.2.3.4]") && len != strlen("wss://[2001:db8::1.2.3.4]:")
                        && len < sizeof whole);
        CHECK_EQ(taken, fault.text[0] == 0);
        free(exact);
    }
}

TEST(url_knows_this_machine)
{
    static const char *const here[] = { "localhost", "LOCALHOST", "127.0.0.1", "127.255.3.4", "[::1]", "[0:0:0:0:0:0:0:1]", "[::0001]" };
    static const char *const there[] = { "localhost.example", "128.0.0.1", "127.0.0.1.example", "[::]", "[::2]", "[::ffff:127.0.0.1]",
                                         "a.localhost", "10.0.0.1", "gateway.discord.gg" };
    char text[64];
    size_t i;
    for (i = 0; i < sizeof here / sizeof *here; i++) {
        gw__text_format(text, sizeof text, "ws://%s:9/", here[i]);
        CHECK(parse(text) && gw__url_is_loopback(&url) && gw__url_allowed(&url, &fault));
        CHECK(gw__url_fits_gateway(&url, &fault));
    }
    for (i = 0; i < sizeof there / sizeof *there; i++) {
        gw__text_format(text, sizeof text, "ws://%s:9/", there[i]);
        CHECK(parse(text) && !gw__url_is_loopback(&url) && !gw__url_allowed(&url, &fault));
        CHECK_HAS(fault.text, "the token in clear text; use wss://");
        memset(&fault, 0, sizeof fault);
        CHECK(!gw__url_fits_gateway(&url, &fault));
        gw__text_format(text, sizeof text, "wss://%s:9/", there[i]);
        CHECK(parse(text) && gw__url_allowed(&url, &fault));
        CHECK(gw__url_fits_gateway(&url, &fault));
    }
    CHECK(parse("http://discord.com/") && !gw__url_allowed(&url, &fault));
    CHECK_HAS(fault.text, "use https://");
}

TEST(url_tells_http_from_a_gateway)
{
    CHECK(parse("http://gateway.discord.gg/") && !gw__url_fits_gateway(&url, &fault));
    CHECK_HAS(fault.text, "write wss://gateway.discord.gg");
    CHECK(parse("https://gateway.discord.gg/") && !gw__url_fits_gateway(&url, &fault));
    CHECK_HAS(fault.text, "write wss://gateway.discord.gg");
    CHECK(parse("http://localhost/") && !gw__url_fits_gateway(&url, &fault));
    CHECK_HAS(fault.text, "write ws://localhost");
    CHECK(parse("https://localhost/") && !gw__url_fits_gateway(&url, &fault));
    CHECK_HAS(fault.text, "write wss://localhost");
}

TEST(url_knows_literal_addresses)
{
    CHECK(gw__url_is_ip("1.2.3.4"));
    CHECK(gw__url_is_ip("::1"));
    CHECK(!gw__url_is_ip("1.2.3"));
    CHECK(!gw__url_is_ip("a.b"));
    CHECK(!gw__url_is_ip(""));
    CHECK(!gw__url_is_ip("dead.beef"));
}

static int may_replace(const char *cached_text, const char *offered_text)
{
    gw__url cached;
    int may;
    CHECK(parse(cached_text));
    cached = url;
    CHECK(parse(offered_text));
    may = gw__url_may_replace(&cached, &url, &fault);
    CHECK_EQ(may, fault.reason == GW_REASON_NONE);
    return may;
}

TEST(url_resume_stays_with_its_host_or_its_parent)
{
    CHECK(may_replace("wss://gateway.discord.gg/", "wss://gateway.discord.gg"));
    CHECK(may_replace("wss://gateway.discord.gg/", "wss://gateway-us-east1-b.discord.gg"));
    CHECK(may_replace("wss://gateway.discord.gg/", "wss://a.b.discord.gg"));
    CHECK(may_replace("wss://gateway.discord.gg/", "wss://GATEWAY-X.DISCORD.GG/some/path?x"));
    CHECK(may_replace("wss://gateway.discord.gg/", "wss://gateway-x.discord.gg:8443/"));    /* the certificate decides */
    CHECK(may_replace("wss://a.b.example.org", "wss://c.b.example.org"));
    CHECK(!may_replace("wss://a.b.example.org", "wss://c.example.org"));
    CHECK_HAS(fault.text, "c.example.org is neither a.b.example.org");
    CHECK(!may_replace("wss://gateway.discord.gg/", "wss://discord.gg"));
    CHECK(!may_replace("wss://gateway.discord.gg/", "wss://evildiscord.gg"));
    CHECK(!may_replace("wss://gateway.discord.gg/", "wss://gateway.discord.gg.evil.example"));
    CHECK(!may_replace("wss://gateway.discord.gg/", "wss://gateway.discord.com"));
    CHECK(!may_replace("wss://gateway.discord.gg/", "wss://127.0.0.1"));
}

TEST(url_resume_never_shares_a_bare_top_level_domain)
{
    CHECK(may_replace("wss://discord.gg", "wss://discord.gg"));
    CHECK(!may_replace("wss://discord.gg", "wss://evil.gg"));
    CHECK(!may_replace("wss://discord.gg", "wss://gateway.discord.gg"));
    CHECK(!may_replace("wss://gateway", "wss://other"));
    CHECK(!may_replace("ws://localhost", "ws://evil.localhost"));
}

TEST(url_resume_keeps_the_scheme)
{
    CHECK(!may_replace("wss://gateway.discord.gg/", "ws://gateway.discord.gg"));
    CHECK_HAS(fault.text, "scheme");
    CHECK(!may_replace("ws://localhost", "wss://localhost"));
    CHECK(!may_replace("wss://gateway.discord.gg/", "https://gateway.discord.gg"));
}

TEST(url_resume_from_an_address_goes_only_to_itself)
{
    CHECK(may_replace("ws://127.0.0.1:4000", "ws://127.0.0.1:5000"));
    CHECK(!may_replace("ws://127.0.0.1", "ws://127.0.0.2"));
    CHECK(!may_replace("wss://10.0.0.1", "wss://1.0.0.1"));
    CHECK(!may_replace("wss://10.0.0.1", "wss://a.0.0.1x"));
    CHECK(!may_replace("wss://a.0.0.1x", "wss://10.0.0.1"));
    CHECK(!may_replace("ws://localhost", "ws://127.0.0.1"));
    CHECK(!may_replace("ws://127.0.0.1", "ws://localhost"));
    CHECK(may_replace("ws://localhost:1", "ws://localhost:2"));
    CHECK(may_replace("ws://[::1]", "ws://[0:0:0:0:0:0:0:1]:99"));
    CHECK(!may_replace("ws://[::1]", "ws://[::2]"));
    CHECK(!may_replace("ws://[::1]", "ws://localhost"));
    CHECK(!may_replace("ws://localhost", "ws://[::1]"));
}

static void targets(const char *text, const char *compress, const char *want)
{
    char out[GW__TARGET_MAX];
    size_t len;
    if (!CHECK(parse(text))) return;
    len = gw__url_gateway_target(&url, compress, out, sizeof out);
    CHECK_TEXT(out, want);
    CHECK_EQ(len, strlen(want));
}

TEST(url_target_sets_version_and_encoding)
{
    targets("wss://gateway.discord.gg", NULL, "/?v=10&encoding=json");
    targets("wss://gateway.discord.gg/", NULL, "/?v=10&encoding=json");
    targets("wss://gateway.discord.gg/?", NULL, "/?v=10&encoding=json");
    targets("wss://a.b/deep/path", NULL, "/deep/path?v=10&encoding=json");
    targets("wss://a.b", "zlib-stream", "/?v=10&encoding=json&compress=zlib-stream");
}

TEST(url_target_keeps_foreign_parameters_and_replaces_ours)
{
    targets("wss://a.b/x?own=1", NULL, "/x?own=1&v=10&encoding=json");
    targets("wss://a.b/x?v=6&own=1&encoding=etf&flag&compress=zlib-stream", NULL, "/x?own=1&flag&v=10&encoding=json");
    targets("wss://a.b?compress=zlib-stream", "zstd-stream", "/?v=10&encoding=json&compress=zstd-stream");
    targets("wss://a.b?v&&encoding&V=3&vv=1&ve=2", NULL, "/?vv=1&ve=2&v=10&encoding=json");
    targets("wss://a.b?a=b?c&d", NULL, "/?a=b?c&d&v=10&encoding=json");
}

TEST(url_target_is_whole_or_nothing)
{
    char text[16 + GW__PATH_MAX], out[GW__TARGET_MAX];
    size_t cap, want = strlen("/?v=10&encoding=json");
    CHECK(parse("wss://a.b"));
    for (cap = 1; cap <= want + 8; cap++) {
        size_t len = gw__url_gateway_target(&url, NULL, out, cap);
        CHECK(len == 0 || len == want);
        if (cap > want + 1) CHECK_EQ(len, want);
    }
    memset(text, 'p', sizeof text);
    memcpy(text, "wss://a.b/", 10);
    text[11] = '?';
    CHECK(parse_bytes(text, 9 + GW__PATH_MAX - 1));
    CHECK_EQ(gw__url_gateway_target(&url, "zstd-stream", out, sizeof out),
             GW__PATH_MAX - 1 + strlen("&v=10&encoding=json&compress=zstd-stream"));
}

CHECK_MAIN()
