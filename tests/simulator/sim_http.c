/* sim_http.c -- one request per connection: the two API addresses, or the upgrade to WebSocket. */
#include "sim_internal.h"
#include <bearssl.h>
#include <stdlib.h>
#include <string.h>

#define SIM_HEAD_MAX 16384u

typedef struct sim_request {
    sim_slice head, method, target, path, query;
    uint32_t upgrade;               /* it asks for a WebSocket */
} sim_request;

/* -- small readers ---------------------------------------------------------- */

static sim_slice sim_piece(const char *ptr, size_t len)
{
    sim_slice slice;
    slice.ptr = ptr;
    slice.len = len;
    return slice;
}

static char sim_lower(char ch) { return ch >= 'A' && ch <= 'Z' ? (char)(ch + 32) : ch; }

static int sim_same_nocase(const char *a, const char *b, size_t len)
{
    size_t i;
    for (i = 0; i < len; i++)
        if (sim_lower(a[i]) != sim_lower(b[i])) return 0;
    return 1;
}

static int sim_slice_is(sim_slice slice, const char *text)
{
    return slice.ptr && slice.len == strlen(text) && memcmp(slice.ptr, text, slice.len) == 0;
}

static int sim_slice_has_nocase(sim_slice slice, const char *word)
{
    size_t len = strlen(word), i;
    for (i = 0; slice.ptr && i + len <= slice.len; i++)
        if (sim_same_nocase(slice.ptr + i, word, len)) return 1;
    return 0;
}

static sim_slice sim_header(const sim_request *request, const char *name)
{
    const char *at = request->head.ptr, *end = at + request->head.len;
    size_t len = strlen(name);
    while (at < end) {
        const char *eol = (const char *)memchr(at, '\r', (size_t)(end - at));
        if (!eol) eol = end;
        if ((size_t)(eol - at) > len && at[len] == ':' && sim_same_nocase(at, name, len)) {
            at += len + 1;
            while (at < eol && *at == ' ') at++;
            return sim_piece(at, (size_t)(eol - at));
        }
        at = eol + 2;
    }
    return sim_piece(NULL, 0);
}

static sim_slice sim_query_value(sim_slice query, const char *name)
{
    size_t len = strlen(name), i = 0;
    while (i < query.len) {
        const char *at = query.ptr + i, *end = (const char *)memchr(at, '&', query.len - i);
        size_t size = end ? (size_t)(end - at) : query.len - i;
        if (size > len && at[len] == '=' && memcmp(at, name, len) == 0)
            return sim_piece(at + len + 1, size - len - 1);
        i += size + 1;
    }
    return sim_piece(NULL, 0);
}

/* "GET /path?query HTTP/1.1" and what the headers say. */
static int sim_parse_request(sim_slice head, sim_request *request)
{
    const char *space, *second, *mark, *eol = (const char *)memchr(head.ptr, '\r', head.len);
    memset(request, 0, sizeof *request);
    request->head = head;
    if (!eol) return 0;
    space = (const char *)memchr(head.ptr, ' ', (size_t)(eol - head.ptr));
    second = space ? (const char *)memchr(space + 1, ' ', (size_t)(eol - space - 1)) : NULL;
    if (!second || !sim_slice_is(sim_piece(second + 1, (size_t)(eol - second - 1)), "HTTP/1.1")) return 0;
    request->method = sim_piece(head.ptr, (size_t)(space - head.ptr));
    request->target = sim_piece(space + 1, (size_t)(second - space - 1));
    if (!request->target.len || request->target.ptr[0] != '/') return 0;
    mark = (const char *)memchr(request->target.ptr, '?', request->target.len);
    request->path = request->target;
    if (mark) {
        request->path.len = (size_t)(mark - request->target.ptr);
        request->query = sim_piece(mark + 1, request->target.len - request->path.len - 1);
    } else {
        request->query = sim_piece("", 0);
    }
    request->upgrade = sim_header(request, "Upgrade").ptr != NULL;
    return 1;
}

/* -- answers ----------------------------------------------------------------- */

static const char *sim_status_words(uint32_t status)
{
    switch (status) {
    case 200: return "OK";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 426: return "Upgrade Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    default:  return "Something";
    }
}

static void sim_log_request(sim_connection *conn, const sim_request *request, uint32_t status)
{
    sim_buf *line = sim_log_begin(conn->gateway, conn, "http");
    if (request) {
        sim_print(line, ",\"method\":");
        sim_print_json(line, request->method.ptr, request->method.len);
        sim_print(line, ",\"path\":");
        sim_print_json(line, request->target.ptr, request->target.len);
        if (sim_header(request, "Sec-WebSocket-Extensions").ptr) sim_print(line, ",\"extensions\":true");
    }
    sim_print(line, ",\"status\":%u", (unsigned)status);
    sim_log_end(conn->gateway);
}

/* Small chunks with an extension and a trailer: all of it is legal, RFC 9112 section 7.1. */
static void sim_chunked(sim_buf *out, const char *body, size_t len)
{
    size_t i, size;
    for (i = 0; i < len; i += size) {
        size = len - i < 7 ? len - i : 7;
        sim_print(out, "%x;sim=1\r\n%.*s\r\n", (unsigned)size, (int)size, body + i);
    }
    sim_print(out, "0\r\nX-Trailer: yes\r\n\r\n");
}

/* extra: whole header lines. */
static void sim_answer(sim_connection *conn, const sim_request *request, uint32_t status,
                       const char *extra, const char *body)
{
    sim_buf *out = &conn->out;
    size_t len = strlen(body);
    sim_log_request(conn, request, status);
    sim_print(out, "HTTP/1.1 %u %s\r\nContent-Type: application/json\r\nConnection: close\r\n%s",
              (unsigned)status, sim_status_words(status), extra);
    if (conn->faults.http_body == SIM_BODY_CHUNKED) {
        sim_print(out, "Transfer-Encoding: chunked\r\n\r\n");
        sim_chunked(out, body, len);
    } else if (conn->faults.http_body == SIM_BODY_UNTIL_CLOSE) {
        sim_print(out, "\r\n%s", body);
    } else {
        sim_print(out, "Content-Length: %lu\r\n\r\n%s", (unsigned long)len, body);
    }
    sim_end(conn, SIM_WANTS_CLOSE);
}

static void sim_answer_message(sim_connection *conn, const sim_request *request, uint32_t status,
                               const char *message)
{
    sim_buf *body = &conn->gateway->scratch;
    sim_buf_clear(body);
    sim_print(body, "{\"message\":\"%u: %s\",\"code\":0}", (unsigned)status, message);
    sim_answer(conn, request, status, "", sim_buf_text(body));
}

static void sim_answer_fault(sim_connection *conn, const sim_request *request)
{
    sim_faults *faults = &conn->faults;
    sim_buf extra, *body = &conn->gateway->scratch;
    memset(&extra, 0, sizeof extra);
    sim_buf_clear(body);
    sim_print(body, "{\"message\":\"%u: by fault\",\"code\":0", (unsigned)faults->http_status);
    if (faults->retry_in_body) sim_print(body, ",\"retry_after\":%.3f,\"global\":false", faults->retry_after);
    sim_print(body, "}");
    if (faults->retry_in_header)
        sim_print(&extra, "Retry-After: %lu\r\n", (unsigned long)(faults->retry_after + 0.999));
    if (faults->redirect) sim_print(&extra, "Location: %s\r\n", faults->redirect);
    sim_answer(conn, request, faults->http_status, sim_buf_text(&extra), sim_buf_text(body));
    sim_buf_free(&extra);
}

static void sim_answer_endless(sim_connection *conn, const sim_request *request)
{
    uint32_t i;
    sim_log_request(conn, request, 200);
    sim_print(&conn->out, "HTTP/1.1 200 OK\r\n");
    for (i = 0; i < 4096; i++)
        sim_print(&conn->out, "X-Endless-%u: and one more line of it\r\n", (unsigned)i);
    conn->stage = SIM_STAGE_OVER;
}

static void sim_answer_garbage(sim_connection *conn)
{
    uint32_t i;
    for (i = 0; i < 500; i++) {
        uint8_t byte = (uint8_t)sim_random(&conn->random);
        sim_buf_append(&conn->out, &byte, 1);
    }
    sim_end(conn, SIM_WANTS_CUT);
}

/* -- API ---------------------------------------------------------------------- */

/* Discord docs, "User Agent": DiscordBot ($url, $versionNumber), more may follow. */
static int sim_user_agent_good(const sim_request *request)
{
    sim_slice agent = sim_header(request, "User-Agent");
    return agent.len > 12 && memcmp(agent.ptr, "DiscordBot (", 12) == 0 &&
        sim_slice_has_nocase(agent, "://") &&
           sim_slice_has_nocase(agent, ", ") && memchr(agent.ptr, ')', agent.len) != NULL;
}

/* The documented rule is the HTTP API's. At the upgrade it is our own: Discord lets other clients in. */
static int sim_user_agent_passes(sim_connection *conn, const sim_request *request)
{
    if (conn->gateway->config.any_user_agent || sim_user_agent_good(request)) return 1;
    sim_violation(conn, "user_agent", "User-Agent is not DiscordBot (url, version)");
    return 0;
}

static int sim_authorized(const sim_gateway *gateway, const sim_request *request)
{
    sim_slice value = sim_header(request, "Authorization");
    if (gateway->token_was_reset || value.len < 5 || memcmp(value.ptr, "Bot ", 4) != 0) return 0;
    if (memcmp(value.ptr + 4, "Bot", 3) == 0) return 0;
    return !gateway->token || sim_slice_is(sim_piece(value.ptr + 4, value.len - 4), gateway->token);
}

static void sim_answer_bot(sim_connection *conn, const sim_request *request)
{
    sim_gateway *gateway = conn->gateway;
    const sim_config *config = &gateway->config;
    sim_buf *body = &gateway->scratch;
    uint64_t reset_ms;
    sim_refill_budget(gateway);
    reset_ms = gateway->remaining == config->total ? 0 :
        gateway->budget_since_ms + config->reset_after_ms - gateway->now_ms;
    sim_buf_clear(body);
    sim_print(body, "{\"url\":");
    sim_print_json(body, gateway->url, strlen(gateway->url));
    sim_print(body, ",\"shards\":%u,\"session_start_limit\":{\"total\":%u,\"remaining\":%u,\"reset_after\":%llu,"
              "\"max_concurrency\":%u}}", (unsigned)config->shards, (unsigned)config->total,
              (unsigned)gateway->remaining, (unsigned long long)reset_ms, (unsigned)config->max_concurrency);
    sim_answer(conn, request, 200, "", sim_buf_text(body));
}

static void sim_answer_url(sim_connection *conn, const sim_request *request)
{
    sim_buf *body = &conn->gateway->scratch;
    sim_buf_clear(body);
    sim_print(body, "{\"url\":");
    sim_print_json(body, conn->gateway->url, strlen(conn->gateway->url));
    sim_print(body, "}");
    sim_answer(conn, request, 200, "", sim_buf_text(body));
}

static void sim_api(sim_connection *conn, const sim_request *request)
{
    int bot = sim_slice_is(request->path, "/api/v10/gateway/bot");
    int api = request->path.len > 5 && memcmp(request->path.ptr, "/api/", 5) == 0;
    if (!bot && !sim_slice_is(request->path, "/api/v10/gateway")) {
        int old = api && (request->path.len < 9 || memcmp(request->path.ptr + 5, "v10/", 4) != 0);
        sim_violation(conn, old ? "api_version" : "http_path", "no such address here");
        sim_answer_message(conn, request, old ? 400 : 404, old ? "Invalid API version" : "Not Found");
    } else if (!sim_slice_is(request->method, "GET")) {
        sim_violation(conn, "http_method", "only GET is answered");
        sim_answer_message(conn, request, 405, "Method Not Allowed");
    } else if (bot && !sim_authorized(conn->gateway, request)) {
        sim_violation(conn, "unauthorized", "Authorization is missing or wrong");
        sim_answer_message(conn, request, 401, "Unauthorized");
    } else if (bot) {
        sim_answer_bot(conn, request);
    } else {
        sim_answer_url(conn, request);
    }
}

/* -- upgrade -------------------------------------------------------------------- */

/* RFC 4648 */
static void sim_base64(char *out, const uint8_t *bytes, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t i;
    for (i = 0; i < len; i += 3) {
        uint32_t group = (uint32_t)bytes[i] << 16 | (i + 1 < len ? (uint32_t)bytes[i + 1] << 8 : 0) |
                         (i + 2 < len ? bytes[i + 2] : 0u);
        *out++ = digits[group >> 18];
        *out++ = digits[group >> 12 & 63];
        *out++ = i + 1 < len ? digits[group >> 6 & 63] : '=';
        *out++ = i + 2 < len ? digits[group & 63] : '=';
    }
    *out = 0;
}

/* RFC 6455 section 4.2.2 */
static void sim_accept_value(char out[32], sim_slice key)
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t digest[br_sha1_SIZE];
    br_sha1_context sha1;
    br_sha1_init(&sha1);
    br_sha1_update(&sha1, key.ptr, key.len);
    br_sha1_update(&sha1, guid, sizeof guid - 1);
    br_sha1_out(&sha1, digest);
    sim_base64(out, digest, sizeof digest);
}

static sim_slice sim_url_path(const char *url)
{
    const char *host = strstr(url, "://"), *slash;
    if (!host) return sim_piece("/", 1);
    slash = strchr(host + 3, '/');
    return slash ? sim_piece(slash, strcspn(slash, "?")) : sim_piece("/", 1);
}

/* Discord has one path; ours are the root, that of the Gateway's URL and those of the resume URLs. */
static int sim_path_known(const sim_gateway *gateway, sim_slice path)
{
    sim_slice resume = sim_url_path(gateway->resume_url), base = sim_url_path(gateway->url);
    const sim_session *session;
    if (sim_slice_is(path, "/")) return 1;
    if (path.len == base.len && memcmp(path.ptr, base.ptr, path.len) == 0) return 1;
    if (path.len == resume.len && memcmp(path.ptr, resume.ptr, path.len) == 0) return 1;
    for (session = gateway->sessions; session; session = session->next) {
        resume = sim_url_path(session->resume_url);
        if (path.len == resume.len && memcmp(path.ptr, resume.ptr, path.len) == 0) return 1;
    }
    return 0;
}

static const char *sim_upgrade_fault(const sim_request *request)
{
    sim_slice key = sim_header(request, "Sec-WebSocket-Key");
    if (!sim_slice_is(request->method, "GET")) return "the method is not GET";
    if (!sim_slice_has_nocase(sim_header(request, "Upgrade"), "websocket")) return "Upgrade is not websocket";
    if (!sim_slice_has_nocase(sim_header(request, "Connection"), "upgrade"))
        return "Connection does not say Upgrade";
    if (key.len != 24 || memcmp(key.ptr + 22, "==", 2) != 0)
        return "Sec-WebSocket-Key is not 16 bytes in base64";
    if (!sim_slice_is(sim_query_value(request->query, "encoding"), "json")) return "encoding=json is missing";
    return NULL;
}

static int sim_choose_squeeze(sim_connection *conn, sim_slice wanted)
{
    conn->squeeze = SIM_SQUEEZE_NONE;
    if (sim_slice_is(wanted, "zlib-stream")) conn->squeeze = SIM_SQUEEZE_ZLIB_STREAM;
    else if (sim_slice_is(wanted, "zstd-stream")) conn->squeeze = SIM_SQUEEZE_ZSTD_STREAM;
    else if (wanted.ptr) return 0;
    return 1;
}

static void sim_open_socket(sim_connection *conn, const sim_request *request)
{
    char accept[32];
    sim_slice host = sim_header(request, "Host");
    sim_accept_value(accept, sim_header(request, "Sec-WebSocket-Key"));
    if (conn->faults.wrong_accept) accept[0] = accept[0] == 'A' ? 'B' : 'A';
    conn->path = sim_copy(request->path.ptr, request->path.len);
    conn->query = sim_copy(request->query.ptr, request->query.len);
    conn->host = sim_copy(host.ptr, host.len);
    conn->gateway->stats.upgrades++;
    sim_log_request(conn, request, 101);
    sim_print(&conn->out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
              "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    conn->stage = SIM_STAGE_FRESH;
    if (sim_slice_is(sim_query_value(request->query, "v"), "10")) sim_greet(conn);
    else sim_refuse(conn, 4012, "api_version", "v=10 is missing in the address");
}

static void sim_upgrade(sim_connection *conn, const sim_request *request)
{
    const char *fault = sim_upgrade_fault(request);
    if (!sim_path_known(conn->gateway, request->path)) {
        sim_violation(conn, "http_path", "no WebSocket at this address");
        sim_answer_message(conn, request, 404, "Not Found");
    } else if (!fault && !sim_slice_is(sim_header(request, "Sec-WebSocket-Version"), "13")) {
        sim_violation(conn, "bad_upgrade", "Sec-WebSocket-Version is not 13");
        sim_answer(conn, request, 426, "Sec-WebSocket-Version: 13\r\n", "{}");
    } else if (fault || !sim_choose_squeeze(conn, sim_query_value(request->query, "compress"))) {
        sim_violation(conn, "bad_upgrade", "%s", fault ? fault : "unknown compress= in the address");
        sim_answer_message(conn, request, 400, fault ? fault : "unknown compression");
    } else if (conn->faults.no_upgrade) {
        sim_answer_message(conn, request, 200, "no upgrade, by fault");
    } else {
        sim_open_socket(conn, request);
    }
}

/* -- a request -------------------------------------------------------------------- */

static void sim_route(sim_connection *conn, const sim_request *request)
{
    if (conn->faults.stall_http) conn->stage = SIM_STAGE_OVER;
    else if (conn->faults.garbage) sim_answer_garbage(conn);
    else if (conn->faults.http_endless) sim_answer_endless(conn, request);
    else if (conn->faults.http_status) sim_answer_fault(conn, request);
    else if (!sim_header(request, "Host").len) {
        sim_violation(conn, "no_host", "the Host header is missing");
        sim_answer_message(conn, request, 400, "Bad Request");
    } else if (!sim_user_agent_passes(conn, request) && !request->upgrade) {
        sim_answer_message(conn, request, 403, "Forbidden");
    } else if (request->upgrade) {
        sim_upgrade(conn, request);
    } else {
        sim_api(conn, request);
    }
}

static void sim_request_in(sim_connection *conn, sim_slice head)
{
    sim_request request;
    conn->gateway->stats.requests++;
    if (!sim_parse_request(head, &request)) {
        sim_violation(conn, "bad_request", "not a request of HTTP/1.1");
        sim_answer_message(conn, NULL, 400, "Bad Request");
        return;
    }
    sim_happened(conn, request.upgrade ? "upgrade" : "api");
    if (conn->state == SIM_OPEN || conn->state == SIM_FROZEN) sim_route(conn, &request);
}

static size_t sim_head_length(const sim_buf *in)
{
    const uint8_t *at = in->bytes + in->begin;
    size_t len = sim_buf_len(in), i;
    for (i = 3; i < len; i++)
        if (at[i] == '\n' && at[i - 1] == '\r' && at[i - 2] == '\n' && at[i - 3] == '\r') return i + 1;
    return 0;
}

void sim_http_work(sim_connection *conn)
{
    size_t len = sim_head_length(&conn->in);
    char *head;
    if (!len && sim_buf_len(&conn->in) > SIM_HEAD_MAX) {
        sim_violation(conn, "long_head", "a request head above 16 KiB");
        sim_answer_message(conn, NULL, 431, "Request Header Fields Too Large");
    }
    if (!len) return;
    head = sim_copy((const char *)conn->in.bytes + conn->in.begin, len);
    sim_buf_consume(&conn->in, len);
    sim_request_in(conn, sim_piece(head, len));
    free(head);
}
