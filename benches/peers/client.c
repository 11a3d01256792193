/* client: the least that a closed-loop echo client can do on one thread and still verify every byte and time every reply.
 *
 * It is what loadgen's own cost is held against: the same requests (slices of one text, each connection at a place of its
 * own), every reply compared, every service time in a histogram. Nothing else: no plan, no timeout, no intervals, no report.
 *
 * usage: client PORT CONNECTIONS DEPTH BYTES REQUESTS WARMUP_REQUESTS
 * It prints one line of JSON: requests, errors, elapsed_s, cpu_ns_per_request, p50_us, p99_us. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_MAX = 1024, READ_BYTES_MAX = 64 * 1024, DEPTH_MAX = 1024, PERIOD = 65521, STRIDE = 40494 };

/* Times below 2^SUB_BITS ns are exact; above, each power of two has 2^(SUB_BITS - 1) buckets: three digits. */
enum { SUB_BITS = 11, BUCKETS = 64 << (SUB_BITS - 1) };

struct conn {
    int fd;
    unsigned in_flight, oldest;
    uint64_t asked, answered;   /* places in the text */
    unsigned reply_bytes;       /* of the oldest request */
    uint64_t sent_ns[];         /* a ring of `depth` */
};

static char text[2 * PERIOD + READ_BYTES_MAX];
static char buffer[READ_BYTES_MAX];
static uint64_t buckets[BUCKETS];
static uint64_t left, answered, errors;
static unsigned depth, size;

static void die(const char *what) {
    fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void record(uint64_t ns) {
    unsigned shift = ns >> SUB_BITS ? 64 - SUB_BITS - __builtin_clzll(ns) : 0;
    buckets[(shift << (SUB_BITS - 1)) + (ns >> shift)]++;
}

static double quantile_us(double part) {
    uint64_t wanted = part * answered, seen = 0;
    for (unsigned index = 0; index < BUCKETS; index++) {
        seen += buckets[index];
        if (seen > wanted) {
            unsigned half = 1 << (SUB_BITS - 1), shift = index < 2 * half ? 0 : index / half - 1;
            return ((uint64_t)(index - shift * half) << shift) / 1e3;
        }
    }
    return 0;
}

/* Fills the connection up to its depth: one write for all of it. A request that the socket does not take whole would need
 * a buffer; with what fits into every socket's buffer that does not happen. */
static void ask(struct conn *conn) {
    unsigned fresh = depth - conn->in_flight;
    if (fresh > left) fresh = left;
    if (!fresh) return;
    left -= fresh;
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    for (unsigned i = 0; i < fresh; i++) {
        unsigned at = conn->oldest + conn->in_flight++;
        conn->sent_ns[at >= depth ? at - depth : at] = now;
    }
    size_t len = (size_t)fresh * size;
    if (send(conn->fd, text + conn->asked % PERIOD, len, MSG_NOSIGNAL) != (ssize_t)len) die("send");
    conn->asked += len;
}

static void take(struct conn *conn) {
    ssize_t len = recv(conn->fd, buffer, READ_BYTES_MAX, 0);
    if (len < 0 && errno == EAGAIN) return;
    if (len <= 0) die("recv");
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    for (char *bytes = buffer, *end = buffer + len; bytes < end;) {
        if (!conn->in_flight) {
            errors++;
            return;
        }
        unsigned part = size - conn->reply_bytes;
        if (part > end - bytes) part = end - bytes;
        if (memcmp(bytes, text + conn->answered % PERIOD, part)) errors++;
        conn->answered += part;
        conn->reply_bytes += part;
        bytes += part;
        if (conn->reply_bytes < size) return;
        conn->reply_bytes = 0;
        record(now - conn->sent_ns[conn->oldest]);
        if (++conn->oldest == depth) conn->oldest = 0;
        conn->in_flight--;
        answered++;
    }
}

static void drive(int epoll, struct conn **conns, unsigned count, uint64_t requests) {
    static struct epoll_event events[EVENTS_MAX];
    left = requests;
    answered = 0;
    for (unsigned i = 0; i < count; i++) ask(conns[i]);
    while (answered < requests) {
        int ready = epoll_wait(epoll, events, EVENTS_MAX, -1);
        if (ready < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < ready; i++) take(events[i].data.ptr);
        for (int i = 0; i < ready; i++) ask(events[i].data.ptr);
    }
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: client PORT CONNECTIONS DEPTH BYTES REQUESTS WARMUP_REQUESTS\n");
        return 2;
    }
    unsigned count = atoi(argv[2]);
    depth = atoi(argv[3]);
    size = atoi(argv[4]);
    uint64_t requests = strtoull(argv[5], NULL, 10), warmup = strtoull(argv[6], NULL, 10);
    if (!count || !depth || depth > DEPTH_MAX || !size || (uint64_t)depth * size > READ_BYTES_MAX || !requests) {
        fprintf(stderr, "client: connections, depth, bytes and requests must be from 1, and depth x bytes up to 64 KiB\n");
        return 2;
    }
    uint64_t state = 0x9e3779b97f4a7c15;
    for (unsigned i = 0; i < PERIOD; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"[(state >> 32) % 62];
    }
    memcpy(text + PERIOD, text, PERIOD);

    int epoll = epoll_create1(EPOLL_CLOEXEC), on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct conn **conns = calloc(count, sizeof *conns);
    for (unsigned i = 0; i < count; i++) {
        struct conn *conn = conns[i] = calloc(1, sizeof *conn + depth * sizeof *conn->sent_ns);
        conn->asked = conn->answered = (uint64_t)i * STRIDE;
        conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (conn->fd < 0) die("socket");
        if (setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0) die("TCP_NODELAY");
        if (connect(conn->fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
        /* Edge-triggered, as loadgen is: a read that was short has taken all, and what comes later is told anew. */
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = conn};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, conn->fd, &event) < 0) die("epoll_ctl");
    }
    if (warmup) drive(epoll, conns, count, warmup);
    memset(buckets, 0, sizeof buckets);
    errors = 0;
    uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID), began = clock_ns(CLOCK_MONOTONIC);
    drive(epoll, conns, count, requests);
    cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    double elapsed = (clock_ns(CLOCK_MONOTONIC) - began) / 1e9;
    printf("{\"requests\": %llu, \"errors\": %llu, \"elapsed_s\": %.6f, \"cpu_ns_per_request\": %.1f, \"p50_us\": %.3f, "
           "\"p99_us\": %.3f}\n",
           (unsigned long long)requests, (unsigned long long)errors, elapsed, (double)cpu / requests, quantile_us(0.5),
           quantile_us(0.99));
    return errors != 0;
}
