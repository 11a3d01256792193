/* An echo server on libuv: one loop, one buffer for all connections.
 *
 *     libuv [PORT]          PORT 0, the default, lets the system choose
 *
 * A reply is written at once (uv_try_write). What the socket does not take is copied, and the connection is read again
 * once that is written. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { READ_BYTES_MAX = 64 * 1024, BACKLOG = 4096 };

struct rest {
    uv_write_t request;
    char bytes[];
};

static char buffer[READ_BYTES_MAX];

static void check(int result, const char *what) {
    if (result >= 0) return;
    fprintf(stderr, "libuv: %s: %s\n", what, uv_strerror(result));
    exit(1);
}

static void forget(uv_handle_t *handle) {
    free(handle);
}

static void hang_up(uv_stream_t *stream) {
    if (!uv_is_closing((uv_handle_t *)stream)) uv_close((uv_handle_t *)stream, forget);
}

static void lend(uv_handle_t *handle, size_t suggested, uv_buf_t *lent) {
    (void)handle, (void)suggested;
    *lent = uv_buf_init(buffer, READ_BYTES_MAX);
}

static void reply(uv_stream_t *stream, ssize_t len, const uv_buf_t *lent);

static void resume(uv_write_t *request, int status) {
    uv_stream_t *stream = request->handle;
    free(request);
    if (status < 0 || uv_read_start(stream, lend, reply) < 0) hang_up(stream);
}

static void reply(uv_stream_t *stream, ssize_t len, const uv_buf_t *lent) {
    if (len < 0) hang_up(stream);
    if (len <= 0) return;
    uv_buf_t all = uv_buf_init(lent->base, len);
    int sent = uv_try_write(stream, &all, 1);
    if (sent == len) return;
    if (sent < 0 && sent != UV_EAGAIN) {
        hang_up(stream);
        return;
    }
    size_t taken = sent < 0 ? 0 : sent;
    struct rest *rest = malloc(sizeof *rest + len - taken);
    if (!rest) abort();
    memcpy(rest->bytes, lent->base + taken, len - taken);
    uv_buf_t left = uv_buf_init(rest->bytes, len - taken);
    uv_read_stop(stream);
    if (uv_write(&rest->request, stream, &left, 1, resume) < 0) {
        free(rest);
        hang_up(stream);
    }
}

static void welcome(uv_stream_t *listener, int status) {
    check(status, "listen");
    uv_tcp_t *connection = malloc(sizeof *connection);
    if (!connection) abort();
    check(uv_tcp_init(listener->loop, connection), "a socket");
    if (uv_accept(listener, (uv_stream_t *)connection) < 0 || uv_tcp_nodelay(connection, 1) < 0 ||
        uv_read_start((uv_stream_t *)connection, lend, reply) < 0)
        hang_up((uv_stream_t *)connection);
}

int main(int argc, char **argv) {
    uv_loop_t *loop = uv_default_loop();
    uv_tcp_t listener;
    struct sockaddr_in address;
    int len = sizeof address;
    signal(SIGPIPE, SIG_IGN);
    check(uv_ip4_addr("127.0.0.1", argc > 1 ? atoi(argv[1]) : 0, &address), "address");
    check(uv_tcp_init(loop, &listener), "a socket");
    check(uv_tcp_bind(&listener, (struct sockaddr *)&address, 0), "bind");
    check(uv_listen((uv_stream_t *)&listener, BACKLOG, welcome), "listen");
    check(uv_tcp_getsockname(&listener, (struct sockaddr *)&address, &len), "the address");
    printf("listening echo tcp://127.0.0.1:%d\nready\n", ntohs(address.sin_port));
    fflush(stdout);
    return uv_run(loop, UV_RUN_DEFAULT);
}
