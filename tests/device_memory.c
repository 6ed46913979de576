// Preloaded into a runner: the most bytes of device memory that Vulkan has given it stand in the file ALLOCATED.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 1 << 16 };  // allocations at a time
typedef void (*function)(void);
typedef function (*loader)(void *instance, const char *name);
static loader next;
static int (*next_allocate)(void *, const char *, const void *, uint64_t *);
static void (*next_free)(void *, uint64_t, const void *);
static uint64_t memories[MOST], sizes[MOST], total, peak;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int allocate(void *device, const char *info, const void *callbacks, uint64_t *memory) {
    int result = next_allocate(device, info, callbacks, memory);
    if (result) return result;
    pthread_mutex_lock(&lock);
    int place = 0;
    while (memories[place]) if (++place == MOST) abort();
    memories[place] = *memory;
    sizes[place] = *(const uint64_t *)(info + 16);  // VkMemoryAllocateInfo: sType and pNext come first
    total += sizes[place];
    if (total > peak) {
        peak = total;
        FILE *file = fopen(getenv("ALLOCATED"), "w");
        if (!file || fprintf(file, "%llu", (unsigned long long)peak) < 0 || fclose(file)) abort();
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static void give_back(void *device, uint64_t memory, const void *callbacks) {
    pthread_mutex_lock(&lock);
    for (int place = 0; memory && place < MOST; place++)
        if (memories[place] == memory) total -= sizes[place], memories[place] = 0;
    pthread_mutex_unlock(&lock);
    next_free(device, memory, callbacks);
}

function vkGetInstanceProcAddr(void *instance, const char *name) {
    if (!next) next = (loader)dlsym(RTLD_NEXT, "vkGetInstanceProcAddr");
    if (!next) next = (loader)dlsym(dlopen("libvulkan.so.1", RTLD_NOW), "vkGetInstanceProcAddr");
    if (!strcmp(name, "vkGetInstanceProcAddr")) return (function)vkGetInstanceProcAddr;
    function found = next(instance, name);
    if (!found) return found;
    if (!strcmp(name, "vkAllocateMemory")) return next_allocate = (void *)found, (function)allocate;
    if (!strcmp(name, "vkFreeMemory")) return next_free = (void *)found, (function)give_back;
    return found;
}
