/* sim_text.c -- buffers, chance, and a strict reader of JSON and UTF-8 on plain bytes. */
#include "sim_internal.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- memory and buffers --------------------------------------------------- */

static void *sim_heap(void *old, size_t bytes)
{
    void *now = realloc(old, bytes ? bytes : 1);
    if (now) return now;
    fprintf(stderr, "gateway simulator: no memory for %lu bytes\n", (unsigned long)bytes);
    exit(3);
}

void *sim_alloc(size_t bytes) { return memset(sim_heap(NULL, bytes), 0, bytes); }

char *sim_copy(const char *text, size_t len)
{
    char *copy = (char *)sim_alloc(len + 1);
    if (len) memcpy(copy, text, len);
    return copy;
}

void sim_buf_free(sim_buf *buf)
{
    free(buf->bytes);
    memset(buf, 0, sizeof *buf);
}

void sim_buf_clear(sim_buf *buf) { buf->begin = buf->end = 0; }
size_t sim_buf_len(const sim_buf *buf) { return buf->end - buf->begin; }

uint8_t *sim_buf_reserve(sim_buf *buf, size_t more)
{
    size_t len = sim_buf_len(buf);
    if (buf->cap - buf->end >= more) return buf->bytes + buf->end;
    if (buf->begin > len && buf->cap - len >= more) {
        memcpy(buf->bytes, buf->bytes + buf->begin, len);
    } else {
        size_t cap = (len + more) * 2 + 64;
        uint8_t *bytes = (uint8_t *)sim_heap(NULL, cap);
        if (len) memcpy(bytes, buf->bytes + buf->begin, len);
        free(buf->bytes);
        buf->bytes = bytes;
        buf->cap = cap;
    }
    buf->begin = 0;
    buf->end = len;
    return buf->bytes + buf->end;
}

void sim_buf_append(sim_buf *buf, const void *bytes, size_t len)
{
    if (!len) return;
    memcpy(sim_buf_reserve(buf, len), bytes, len);
    buf->end += len;
}

void sim_buf_consume(sim_buf *buf, size_t len)
{
    buf->begin += len;
    if (buf->begin == buf->end) sim_buf_clear(buf);
}

const char *sim_buf_text(sim_buf *buf)
{
    *sim_buf_reserve(buf, 1) = 0;
    return (const char *)buf->bytes + buf->begin;
}

void sim_print(sim_buf *buf, const char *format, ...)
{
    va_list list;
    int len;
    size_t room = 256;
    for (;;) {
        char *out = (char *)sim_buf_reserve(buf, room);
        va_start(list, format);
        len = vsnprintf(out, room, format, list);
        va_end(list);
        if (len < 0) return;
        if ((size_t)len < room) break;
        room = (size_t)len + 1;
    }
    buf->end += (size_t)len;
}

void sim_print_json(sim_buf *buf, const char *text, size_t len)
{
    size_t i;
    int valid = sim_utf8_valid((const uint8_t *)text, len);
    sim_buf_append(buf, "\"", 1);
    for (i = 0; i < len; i++) {
        uint8_t byte = (uint8_t)text[i];
        if (byte == '"' || byte == '\\') sim_buf_append(buf, "\\", 1);
        if (byte < 0x20) sim_print(buf, "\\u%04x", (unsigned)byte);
        else if (byte >= 0x80 && !valid) sim_buf_append(buf, "?", 1);
        else sim_buf_append(buf, &text[i], 1);
    }
    sim_buf_append(buf, "\"", 1);
}

/* -- chance (splitmix64) --------------------------------------------------- */

uint64_t sim_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

uint64_t sim_below(uint64_t *state, uint64_t limit) { return limit ? sim_random(state) % limit : 0; }

/* -- UTF-8: RFC 3629, no overlong forms, no surrogates ---------------------- */

static size_t sim_utf8_length(const uint8_t *at, size_t left)
{
    size_t need = at[0] < 0x80 ? 1 : at[0] < 0xC2 ? 0 : at[0] < 0xE0 ? 2 :
                  at[0] < 0xF0 ? 3 : at[0] < 0xF5 ? 4 : 0;
    size_t i;
    if (need == 0 || need > left) return 0;
    for (i = 1; i < need; i++)
        if ((at[i] & 0xC0) != 0x80) return 0;
    if (at[0] == 0xE0 && at[1] < 0xA0) return 0;
    if (at[0] == 0xED && at[1] > 0x9F) return 0;
    if (at[0] == 0xF0 && at[1] < 0x90) return 0;
    if (at[0] == 0xF4 && at[1] > 0x8F) return 0;
    return need;
}

int sim_utf8_valid(const uint8_t *bytes, size_t len)
{
    size_t i = 0;
    while (i < len) {
        size_t step = sim_utf8_length(bytes + i, len - i);
        if (!step) return 0;
        i += step;
    }
    return 1;
}

/* -- JSON: a cursor that checks as it goes ---------------------------------- */

#define SIM_JSON_DEPTH 64
typedef struct sim_cursor { const char *at, *end; } sim_cursor;

static int sim_skip_value(sim_cursor *c, int depth);

static void sim_skip_space(sim_cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r')) c->at++;
}

static int sim_skip_char(sim_cursor *c, char wanted)
{
    if (c->at == c->end || *c->at != wanted) return 0;
    c->at++;
    return 1;
}

static int sim_skip_word(sim_cursor *c, const char *word)
{
    size_t len = strlen(word);
    if ((size_t)(c->end - c->at) < len || memcmp(c->at, word, len) != 0) return 0;
    c->at += len;
    return 1;
}

static int sim_is_hex(char ch)
{
    return (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'f') || (ch >= 'A' && ch <= 'F');
}

static int sim_skip_escape(sim_cursor *c)
{
    int i;
    if (c->at == c->end) return 0;
    if (*c->at != 'u') return strchr("\"\\/bfnrt", *c->at) && *c->at ? (c->at++, 1) : 0;
    for (i = 1, c->at++; i <= 4; i++, c->at++)
        if (c->at == c->end || !sim_is_hex(*c->at)) return 0;
    return 1;
}

static int sim_skip_string(sim_cursor *c)
{
    if (!sim_skip_char(c, '"')) return 0;
    while (c->at < c->end) {
        uint8_t byte = (uint8_t)*c->at++;
        if (byte == '"') return 1;
        if (byte < 0x20) return 0;
        if (byte == '\\' && !sim_skip_escape(c)) return 0;
    }
    return 0;
}

static int sim_skip_digits(sim_cursor *c)
{
    const char *begin = c->at;
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9') c->at++;
    return c->at > begin;
}

static int sim_skip_number(sim_cursor *c)
{
    sim_skip_char(c, '-');
    if (!sim_skip_char(c, '0') && !sim_skip_digits(c)) return 0;
    if (sim_skip_char(c, '.') && !sim_skip_digits(c)) return 0;
    if (c->at < c->end && (*c->at == 'e' || *c->at == 'E')) {
        c->at++;
        if (!sim_skip_char(c, '+')) sim_skip_char(c, '-');
        return sim_skip_digits(c);
    }
    return 1;
}

/* The members of an object or the values of an array, after the opening bracket. */
static int sim_skip_inside(sim_cursor *c, char closing, int depth)
{
    sim_skip_space(c);
    if (sim_skip_char(c, closing)) return 1;
    for (;;) {
        sim_skip_space(c);
        if (closing == '}') {
            if (!sim_skip_string(c)) return 0;
            sim_skip_space(c);
            if (!sim_skip_char(c, ':')) return 0;
        }
        if (!sim_skip_value(c, depth)) return 0;
        if (sim_skip_char(c, closing)) return 1;
        if (!sim_skip_char(c, ',')) return 0;
    }
}

static int sim_skip_value(sim_cursor *c, int depth)
{
    int good;
    sim_skip_space(c);
    if (c->at == c->end || depth == 0) return 0;
    switch (*c->at) {
    case '{': c->at++; good = sim_skip_inside(c, '}', depth - 1); break;
    case '[': c->at++; good = sim_skip_inside(c, ']', depth - 1); break;
    case '"': good = sim_skip_string(c); break;
    case 't': good = sim_skip_word(c, "true"); break;
    case 'f': good = sim_skip_word(c, "false"); break;
    case 'n': good = sim_skip_word(c, "null"); break;
    default:  good = sim_skip_number(c); break;
    }
    sim_skip_space(c);
    return good;
}

int sim_json_valid(const char *text, size_t len)
{
    sim_cursor c;
    c.at = text;
    c.end = text + len;
    return sim_skip_value(&c, SIM_JSON_DEPTH) && c.at == c.end;
}

/* Below here the text has passed sim_json_valid. */

static sim_slice sim_slice_of(const char *begin, const char *end)
{
    sim_slice slice;
    while (end > begin && strchr(" \t\r\n", end[-1])) end--;
    slice.ptr = begin;
    slice.len = (size_t)(end - begin);
    return slice;
}

/* *at: 0, then the offset behind the last value. */
static int sim_json_step(sim_slice whole, size_t *at, sim_slice *key, sim_slice *value)
{
    sim_cursor c;
    const char *begin;
    c.at = whole.ptr + (*at ? *at : 1);
    c.end = whole.ptr + whole.len;
    sim_skip_space(&c);
    sim_skip_char(&c, ',');
    sim_skip_space(&c);
    if (c.at == c.end || *c.at == ']' || *c.at == '}') return 0;
    if (key) {
        begin = c.at + 1;
        sim_skip_string(&c);
        *key = sim_slice_of(begin, c.at - 1);
        sim_skip_space(&c);
        sim_skip_char(&c, ':');
        sim_skip_space(&c);
    }
    begin = c.at;
    sim_skip_value(&c, SIM_JSON_DEPTH);
    *value = sim_slice_of(begin, c.at);
    *at = (size_t)(c.at - whole.ptr);
    return 1;
}

int sim_json_each(sim_slice array, size_t *at, sim_slice *value)
{
    return sim_json_is_array(array) && sim_json_step(array, at, NULL, value);
}

int sim_json_member(sim_slice object, size_t *at, sim_slice *key, sim_slice *value)
{
    return sim_json_is_object(object) && sim_json_step(object, at, key, value);
}

sim_slice sim_json_get(sim_slice object, const char *key)
{
    size_t at = 0;
    sim_slice name, value, none;
    while (sim_json_member(object, &at, &name, &value))
        if (name.len == strlen(key) && memcmp(name.ptr, key, name.len) == 0) return value;
    none.ptr = NULL;
    none.len = 0;
    return none;
}

static int sim_begins(sim_slice value, char first) { return value.ptr && value.len && value.ptr[0] == first; }
int sim_json_is_text(sim_slice value)   { return sim_begins(value, '"'); }
int sim_json_is_object(sim_slice value) { return sim_begins(value, '{'); }
int sim_json_is_array(sim_slice value)  { return sim_begins(value, '['); }
int sim_json_is_bool(sim_slice value)   { return sim_begins(value, 't') || sim_begins(value, 'f'); }
int sim_json_is_null(sim_slice value)   { return sim_begins(value, 'n'); }

static int sim_digits_to_u64(const char *text, size_t len, uint64_t *out)
{
    uint64_t sum = 0;
    size_t i;
    if (!len || len > 20) return 0;
    for (i = 0; i < len; i++) {
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (text[i] < '0' || text[i] > '9' || sum > (UINT64_MAX - digit) / 10) return 0;
        sum = sum * 10 + digit;
    }
    *out = sum;
    return 1;
}

int sim_json_u64(sim_slice value, uint64_t *out)
{
    return value.ptr && sim_digits_to_u64(value.ptr, value.len, out);
}

int sim_json_id(sim_slice value, uint64_t *out)
{
    return sim_json_is_text(value) && sim_digits_to_u64(value.ptr + 1, value.len - 2, out);
}

static uint32_t sim_hex4(const char *at)
{
    uint32_t sum = 0, i;
    for (i = 0; i < 4; i++) {
        char ch = at[i];
        sum = sum * 16 + (uint32_t)(ch <= '9' ? ch - '0' : (ch | 32) - 'a' + 10);
    }
    return sum;
}

static size_t sim_utf8_put(char *out, uint32_t code)
{
    if (code < 0x80) { out[0] = (char)code; return 1; }
    if (code < 0x800) { out[0] = (char)(0xC0 | (code >> 6)); out[1] = (char)(0x80 | (code & 63)); return 2; }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | (code >> 12));
        out[1] = (char)(0x80 | ((code >> 6) & 63));
        out[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | (code >> 18)); out[1] = (char)(0x80 | ((code >> 12) & 63));
    out[2] = (char)(0x80 | ((code >> 6) & 63)); out[3] = (char)(0x80 | (code & 63));
    return 4;
}

char *sim_json_text(sim_slice value)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *at, *end;
    char *text, *out;
    if (!sim_json_is_text(value)) return NULL;
    at = value.ptr + 1;
    end = value.ptr + value.len - 1;
    text = out = (char *)sim_alloc(value.len + 1);
    while (at < end) {
        uint32_t code;
        if (*at != '\\') { *out++ = *at++; continue; }
        if (at[1] != 'u') { *out++ = to[strchr(from, at[1]) - from]; at += 2; continue; }
        code = sim_hex4(at + 2);
        at += 6;
        if (code >= 0xD800 && code < 0xDC00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u') {
            code = 0x10000 + ((code - 0xD800) << 10) + ((sim_hex4(at + 2) - 0xDC00) & 0x3FF);
            at += 6;
        }
        out += sim_utf8_put(out, code);
    }
    return text;
}

int sim_json_same(sim_slice value, const char *text)
{
    char *plain = sim_json_text(value);
    int same = plain && strcmp(plain, text) == 0;
    free(plain);
    return same;
}
