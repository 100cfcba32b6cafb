/* listener.c: how connects are answered. The socket stays bound to its port throughout, so that
 * nobody else gets it: what refuses is a socket that does not listen, what does not answer one
 * whose queue is full. */
#include "proxy.h"
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 511, FILLERS = 3 };

typedef enum manners { OPEN, REFUSE, SILENT, RESET, UNANSWERED, COUNT } manners;
static const char *const NAMES[COUNT] = {"open", "refuse", "silent", "reset", "unanswered"};

static struct {
  proxy *proxy;
  int fd, port;
  uv_poll_t poll;
  manners manner;
  int fillers[FILLERS];
} listener;

static void hang_up(int fd) {
  struct linger now = {.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close(fd);
}

static void on_connects(uv_poll_t *poll, int status, int events) {
  (void)poll, (void)events;
  if (status < 0) return;
  int fd;
  while ((fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    listener.proxy->counts.accepted++;
    if (listener.manner == RESET || listener.proxy->counts.open >= MOST_LINKS)
      hang_up(fd);
    else
      link_open(listener.proxy, fd, listener.manner == SILENT);
  }
}

static struct sockaddr_in address(int port) {
  return (struct sockaddr_in){.sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int make_socket(int port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;
  struct sockaddr_in at = address(port);
  if (fd < 0) return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(fd, (struct sockaddr *)&at, sizeof at) == 0) return fd;
  close(fd);
  return -1;
}

/* The kernel chooses a port; but only one that was asked for by number stays bound to a socket that
 * ceases to listen. */
int listener_start(proxy *on) {
  int chosen = make_socket(0);
  struct sockaddr_in at;
  socklen_t size = sizeof at;
  if (chosen < 0 || getsockname(chosen, (struct sockaddr *)&at, &size) != 0) return 0;
  close(chosen);
  listener.proxy = on;
  listener.port = ntohs(at.sin_port);
  listener.fd = make_socket(listener.port);
  for (int i = 0; i < FILLERS; i++)
    listener.fillers[i] = -1;
  if (listener.fd < 0 || listen(listener.fd, BACKLOG) != 0) return 0;
  uv_poll_init(&on->loop, &listener.poll, listener.fd);
  uv_poll_start(&listener.poll, UV_READABLE, on_connects);
  return listener.port;
}

/* One connect fills a queue of no length; those after it are not answered. */
static void fill_queue(void) {
  struct sockaddr_in at = address(listener.port);
  listen(listener.fd, 0);
  for (int i = 0; i < FILLERS; i++) {
    listener.fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    connect(listener.fillers[i], (struct sockaddr *)&at, sizeof at);
  }
}

static void drop_fillers(void) {
  for (int i = 0; i < FILLERS; i++) {
    if (listener.fillers[i] >= 0) hang_up(listener.fillers[i]);
    listener.fillers[i] = -1;
  }
}

bool listener_set(const char *how) {
  manners manner = 0;
  while (manner < COUNT && strcmp(how, NAMES[manner]) != 0)
    manner++;
  if (manner == COUNT) return false;
  uv_poll_stop(&listener.poll);
  drop_fillers();
  listener.manner = manner;
  if (manner == REFUSE) {
    shutdown(listener.fd, SHUT_RD);
    return true;
  }
  if (manner == UNANSWERED) {
    fill_queue();
    return true;
  }
  listen(listener.fd, BACKLOG);
  uv_poll_start(&listener.poll, UV_READABLE, on_connects);
  return true;
}
