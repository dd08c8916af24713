/* corpus.c -- templates, chance, and frames around them. */
#include "corpus.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FRAME_HEADER_MAX 10u

typedef struct writer { corpus *to; uint64_t chance; } writer;

/* ---- chance (splitmix64): the same everywhere ---- */
static uint64_t below(writer *w, uint64_t limit)
{
    uint64_t z = (w->chance += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (z ^ (z >> 31)) % limit;
}

/* ---- bytes ---- */
static void reserve(corpus *to, size_t more)
{
    size_t cap = to->cap ? to->cap : 65536;
    if (to->cap - to->len >= more) return;
    while (cap - to->len < more) cap *= 2;
    to->bytes = (uint8_t *)realloc(to->bytes, cap);
    if (!to->bytes) {
        fprintf(stderr, "bench: no memory for a corpus of %lu bytes\n", (unsigned long)cap);
        exit(2);
    }
    to->cap = cap;
}

static void put(writer *w, const char *text, size_t len)
{
    reserve(w->to, len);
    memcpy(w->to->bytes + w->to->len, text, len);
    w->to->len += len;
}

static void put_number(writer *w, uint64_t number)
{
    char digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + number % 10); while ((number /= 10) != 0);
    put(w, digits + at, sizeof digits - at);
}

/* ---- words: most plain, some with escapes and letters outside ASCII, as people write ---- */
static void put_word(writer *w)
{
    static const char *const words[] = {
        "raid", "tonight", "hello", "the", "server", "channel", "music", "who", "is", "playing",
        "good", "morning", "friend", "level", "update", "no", "yes", "thanks", "please", "later",
        "build", "castle", "river", "green", "night", "again", "about", "question", "answer",
        "caf\xC3\xA9", "\xE2\x9C\xA8", "\xF0\x9F\x91\x8D", "\\\"quoted\\\"", "line\\nbreak",
        "\\u00fcber", "https:\\/\\/example.com\\/a"
    };
    /* the last seven are rare: one word in 24 */
    uint64_t plain = sizeof words / sizeof *words - 7;
    const char *word = words[below(w, 24) ? below(w, plain) : plain + below(w, 7)];
    put(w, word, strlen(word));
}

static void put_sentence(writer *w, uint64_t words)
{
    uint64_t i;
    for (i = 0; i < words; i++) {
        if (i) put(w, " ", 1);
        put_word(w);
    }
}

static void put_hex(writer *w, int digits)
{
    while (digits--) put(w, &"0123456789abcdef"[below(w, 16)], 1);
}

static void put_time(writer *w)
{
    char text[40];
    int len = snprintf(text, sizeof text, "2025-%02d-%02dT%02d:%02d:%02d.%03d000+00:00",
                       1 + (int)below(w, 12), 1 + (int)below(w, 28), (int)below(w, 24),
                       (int)below(w, 60), (int)below(w, 60), (int)below(w, 1000));
    put(w, text, (size_t)len);
}

static void put_status(writer *w)
{
    static const char *const statuses[] = { "online", "idle", "dnd", "offline" };
    const char *status = statuses[below(w, 4)];
    put(w, status, strlen(status));
}

static void put_template(writer *w, const char *text);

/* ---- pieces that occur in several events ---- */
#define USER "{\"username\":\"$w$n\",\"public_flags\":$n,\"primary_guild\":null,\"id\":\"$i\"," \
    "\"global_name\":\"$w $w\",\"display_name_styles\":null,\"discriminator\":\"0\"," \
    "\"clan\":null,\"avatar_decoration_data\":null,\"avatar\":\"$h\"}"
#define MEMBER_FIELDS "\"roles\":[$r],\"premium_since\":null,\"pending\":false,\"nick\":null," \
    "\"mute\":false,\"joined_at\":\"$t\",\"flags\":0,\"deaf\":false," \
    "\"communication_disabled_until\":null,\"banner\":null,\"avatar\":null"
#define MEMBER "{\"user\":" USER "," MEMBER_FIELDS "}"
#define ACTIVITY "{\"type\":0,\"timestamps\":{\"start\":17$T},\"state\":\"$s\"," \
    "\"name\":\"$w $w\",\"id\":\"$h\",\"details\":\"$s\",\"created_at\":17$T," \
    "\"assets\":{\"small_text\":\"$w\",\"small_image\":\"$i\",\"large_text\":\"$w $w\"," \
    "\"large_image\":\"$i\"},\"application_id\":\"$i\"}"
#define PRESENCE "{\"user\":{\"id\":\"$i\"},\"status\":\"$p\",\"processed_at_timestamp\":17$T," \
    "\"guild_id\":\"$i\",\"client_status\":{\"desktop\":\"$p\"},\"broadcast\":null," \
    "\"activities\":[$a]}"
#define MESSAGE "{\"type\":0,\"tts\":false,\"timestamp\":\"$t\",\"pinned\":false," \
    "\"nonce\":\"$i\",\"mentions\":[],\"mention_roles\":[],\"mention_everyone\":false," \
    "\"member\":{" \
    MEMBER_FIELDS "},\"id\":\"$i\",\"flags\":0,\"embeds\":[],\"edited_timestamp\":null," \
    "\"content\":\"$S\",\"components\":[],\"channel_type\":0,\"channel_id\":\"$i\",\"author\":" \
    USER ",\"attachments\":[],\"guild_id\":\"$i\"}"
#define CHANNEL "{\"version\":17$T,\"type\":0,\"topic\":\"$s\",\"rate_limit_per_user\":0," \
    "\"position\":$n,\"permission_overwrites\":[{\"type\":0,\"id\":\"$i\",\"deny\":\"1024\"," \
    "\"allow\":\"0\"}],\"parent_id\":\"$i\",\"nsfw\":false,\"name\":\"$w-$w\"," \
    "\"last_message_id\":\"$i\",\"id\":\"$i\",\"flags\":0"
#define ROLE "{\"version\":17$T,\"unicode_emoji\":null,\"tags\":{},\"position\":$n," \
    "\"permissions\":\"137411140505153\",\"name\":\"$w\",\"mentionable\":false,\"managed\":false," \
    "\"id\":\"$i\",\"icon\":null,\"hoist\":false,\"flags\":0,\"color\":$n}"

/* name, share of 1,000, body. Rows from REACTION to MEMBER_UPDATE are the tenth that "nine of ten
 * filtered" wants. */
#define EVENTS(X) \
    X("PRESENCE_UPDATE", 500, PRESENCE) \
    X("MESSAGE_CREATE", 200, MESSAGE) \
    X("TYPING_START", 143, "{\"user_id\":\"$i\",\"timestamp\":17$n,\"member\":" MEMBER \
      ",\"channel_id\":\"$i\",\"guild_id\":\"$i\"}") \
    X("MESSAGE_REACTION_ADD", 40, "{\"user_id\":\"$i\",\"type\":0,\"message_id\":\"$i\"," \
      "\"message_author_id\":\"$i\",\"member\":" MEMBER ",\"emoji\":{" \
      "\"name\":\"\xF0\x9F\x91\x8D\",\"id\":null},\"channel_id\":\"$i\",\"burst\":false," \
      "\"guild_id\":\"$i\"}") \
    X("MESSAGE_UPDATE", 30, MESSAGE) \
    X("GUILD_MEMBER_UPDATE", 30, "{\"user\":" USER "," MEMBER_FIELDS ",\"guild_id\":\"$i\"}") \
    X("VOICE_STATE_UPDATE", 30, "{\"member\":" MEMBER ",\"user_id\":\"$i\",\"suppress\":false," \
      "\"session_id\":\"$h\",\"self_video\":false,\"self_mute\":true,\"self_deaf\":false," \
      "\"request_to_speak_timestamp\":null,\"mute\":false,\"guild_id\":\"$i\",\"deaf\":false," \
      "\"channel_id\":\"$i\"}") \
    X("MESSAGE_DELETE", 17, "{\"id\":\"$i\",\"channel_id\":\"$i\",\"guild_id\":\"$i\"}") \
    X("CHANNEL_UPDATE", 7, CHANNEL ",\"guild_id\":\"$i\"}") \
    X("GUILD_ROLE_UPDATE", 3, "{\"role\":" ROLE ",\"guild_id\":\"$i\"}")

typedef struct event_kind { const char *name; uint32_t share; const char *body; } event_kind;

static const event_kind kinds[] = {
#define KIND(name, share, body) { name, share, body },
    EVENTS(KIND)
#undef KIND
};

static void put_roles(writer *w)
{
    uint64_t i, count = 1 + below(w, 4);
    for (i = 0; i < count; i++) put_template(w, i ? ",\"$i\"" : "\"$i\"");
}

static void put_activities(writer *w)
{
    uint64_t i, count = below(w, 100) < 88 ? 1 + (below(w, 100) < 62) : 0;
    for (i = 0; i < count; i++) put_template(w, i ? "," ACTIVITY : ACTIVITY);
}

/* $i snowflake, $w word, $s a few words, $S a message's text, $n small number, $T eleven digits of
 * a time in ms, $t time as text, $h hash, $p status, $r roles, $a activities */
static void put_field(writer *w, char code)
{
    switch (code) {
    case 'i': put_number(w, UINT64_C(900000000000000000) + below(w, UINT64_C(1) << 58)); break;
    case 'w': put_word(w); break;
    case 's': put_sentence(w, 3 + below(w, 3)); break;
    case 'S': put_sentence(w, 2 + below(w, 29)); break;
    case 'n': put_number(w, below(w, 256)); break;
    case 'T': put_number(w, UINT64_C(10000000000) + below(w, UINT64_C(60000000000))); break;
    case 't': put_time(w); break;
    case 'h': put_hex(w, 32); break;
    case 'p': put_status(w); break;
    case 'r': put_roles(w); break;
    case 'a': put_activities(w); break;
    default: break;
    }
}

static void put_template(writer *w, const char *text)
{
    const char *dollar;
    while ((dollar = strchr(text, '$')) != NULL) {
        put(w, text, (size_t)(dollar - text));
        put_field(w, dollar[1]);
        text = dollar + 2;
    }
    put(w, text, strlen(text));
}

/* ---- frames: room for the longest header is left, and taken back where it was too long ---- */
static size_t begin_event(writer *w, const char *name, uint64_t seq)
{
    size_t begin = w->to->len;
    put(w, "0123456789", FRAME_HEADER_MAX);
    put_template(w, "{\"t\":\"");
    put_template(w, name);
    put_template(w, "\",\"s\":");
    put_number(w, seq);
    put_template(w, ",\"op\":0,\"d\":");
    return begin;
}

static size_t write_header(uint8_t *out, size_t len)
{
    size_t i, bytes = len < 126 ? 0 : len < 65536 ? 2 : 8;
    out[0] = 0x81;              /* a whole text message: RFC 6455 section 5.2 */
    out[1] = (uint8_t)(bytes == 0 ? len : bytes == 2 ? 126 : 127);
    for (i = 0; i < bytes; i++) out[2 + i] = (uint8_t)((uint64_t)len >> 8 * (bytes - 1 - i));
    return 2 + bytes;
}

static void end_event(writer *w, size_t begin)
{
    uint8_t header[FRAME_HEADER_MAX];
    size_t len, header_len;
    put(w, "}", 1);
    len = w->to->len - begin - FRAME_HEADER_MAX;
    header_len = write_header(header, len);
    memcpy(w->to->bytes + begin, header, header_len);
    memmove(w->to->bytes + begin + header_len, w->to->bytes + begin + FRAME_HEADER_MAX, len);
    w->to->len = begin + header_len + len;
    w->to->json_bytes += len;
}

/* ---- the mix: a deck of 1,000 cards, so that the shares are exact in each thousand ---- */
static void shuffle(writer *w, uint8_t deck[1000])
{
    uint32_t kind, i, at = 0;
    for (kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
        for (i = 0; i < kinds[kind].share; i++) deck[at++] = (uint8_t)kind;
    for (i = 999; i > 0; i--) {
        uint32_t other = (uint32_t)below(w, i + 1);
        uint8_t card = deck[i];
        deck[i] = deck[other];
        deck[other] = card;
    }
}

static void write_mix(writer *w, const corpus_ask *ask)
{
    uint8_t deck[1000];
    uint32_t i;
    for (i = 0; i < ask->count; i++) {
        const event_kind *kind;
        size_t begin;
        if (i % 1000 == 0) shuffle(w, deck);
        kind = &kinds[deck[i % 1000]];
        begin = begin_event(w, kind->name, ask->first_seq + i);
        put_template(w, kind->body);
        end_event(w, begin);
    }
}

/* ---- a guild: its own fields, channels, roles, then members and presences up to its size ---- */
static void put_list(writer *w, const char *name, const char *item, uint32_t count)
{
    uint32_t i;
    put_template(w, name);
    for (i = 0; i < count; i++) {
        if (i) put(w, ",", 1);
        put_template(w, item);
    }
}

static void put_until(writer *w, const char *name, const char *item, size_t end)
{
    uint32_t i;
    put_template(w, name);
    for (i = 0; w->to->len < end; i++) {
        if (i) put(w, ",", 1);
        put_template(w, item);
    }
}

static void write_guild(writer *w, uint64_t seq, size_t bytes)
{
    size_t begin = begin_event(w, "GUILD_CREATE", seq), start = w->to->len;
    uint32_t some = bytes < 100000 ? 4 : 60;
    put_template(w, "{\"id\":\"$i\",\"name\":\"$w $w\",\"icon\":\"$h\",\"owner_id\":\"$i\","
                    "\"region\":\"deprecated\",\"member_count\":$T,\"joined_at\":\"$t\",");
    put_list(w, "\"channels\":[", CHANNEL "}", some);
    put_list(w, "],\"roles\":[", ROLE, some);
    put_until(w, "],\"members\":[", MEMBER, start + bytes / 2);
    put_until(w, "],\"presences\":[", PRESENCE, start + bytes - 400);
    put_template(w, "],\"threads\":[],\"voice_states\":[],\"large\":true,\"premium_tier\":3,"
                    "\"description\":\"$s\"}");
    end_event(w, begin);
}

/* ---- the public part ---- */
void corpus_build(corpus *out, const corpus_ask *ask)
{
    writer w;
    size_t begin;
    uint32_t i;
    memset(out, 0, sizeof *out);
    w.to = out;
    w.chance = ask->seed;
    if (ask->kind == CORPUS_GUILDS) reserve(out, (ask->guild_bytes + 4096) * ask->count);
    if (ask->kind == CORPUS_MIX) write_mix(&w, ask);
    else for (i = 0; i < ask->count; i++) write_guild(&w, ask->first_seq + i, ask->guild_bytes);
    out->events = ask->count;
    begin = begin_event(&w, "WEBHOOKS_UPDATE", ask->first_seq + ask->count);
    put_template(&w, "{\"guild_id\":\"$i\",\"channel_id\":\"$i\"}");
    end_event(&w, begin);
}

void corpus_free(corpus *it)
{
    free(it->bytes);
    memset(it, 0, sizeof *it);
}

size_t corpus_frame_len(const uint8_t *frame, size_t *header_len)
{
    size_t i, len = frame[1] & 127u, bytes = len < 126 ? 0 : len == 126 ? 2 : 8;
    if (bytes) len = 0;
    for (i = 0; i < bytes; i++) len = len << 8 | frame[2 + i];
    *header_len = 2 + bytes;
    return 2 + bytes + len;
}

int corpus_next(const corpus *it, size_t *at, const char **json, size_t *len)
{
    size_t header, frame;
    if (*at >= it->len) return 0;
    frame = corpus_frame_len(it->bytes + *at, &header);
    *json = (const char *)it->bytes + *at + header;
    *len = frame - header;
    *at += frame;
    return 1;
}
