/* waiter.c: queues of tasks that wait for the same thing, first come, first served. */
#include "async/task_internal.h"

void waiter_append(waiter_list *list, waiter *self, task_ticket ticket) {
  *self = (waiter){.ticket = ticket, .previous = list->last, .list = list};
  if (list->last != NULL) {
    list->last->next = self;
  } else {
    list->first = self;
  }
  list->last = self;
  list->count++;
}

void waiter_leave(void *data) {
  waiter *self = data;
  waiter_list *list = self->list;
  if (list == NULL) return;
  if (self->previous != NULL) {
    self->previous->next = self->next;
  } else {
    list->first = self->next;
  }
  if (self->next != NULL) {
    self->next->previous = self->previous;
  } else {
    list->last = self->previous;
  }
  self->list = NULL;
  list->count--;
}

bool waiter_wake_first(waiter_list *list) {
  waiter *first = list->first;
  if (first == NULL) return false;
  waiter_leave(first);
  task_wake(first->ticket);
  return true;
}

void waiter_wake_all(waiter_list *list) {
  while (waiter_wake_first(list)) {
  }
}

waiter *waiter_new(lua_State *L) {
  waiter *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (waiter){0};
  return self;
}
