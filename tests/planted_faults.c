// Preloaded into a runner: a Vulkan driver with the fault that PLANTED_FAULT names; tests/faults/test_card_check.py.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NO_DEVICE_MEMORY = -2, NO_START = -3, LOST = -4, SHARED = 64 << 20, GIVEN = 24 << 20, MOST = 1 << 12 };
typedef void (*function)(void);
typedef function (*loader)(void *instance, const char *name);
static loader next, next_of_device;
static int (*next_submit)(void *, uint32_t, const void *, uint64_t);
static void (*next_dispatch)(void *, uint32_t, uint32_t, uint32_t);
static int (*next_shader)(void *, const char *, const void *, uint64_t *);
static int (*next_allocate)(void *, const char *, const void *, uint64_t *);
static void (*next_free)(void *, uint64_t, const void *);
static int (*next_map)(void *, uint64_t, uint64_t, uint64_t, uint32_t, void **);
static void (*next_unmap)(void *, uint64_t);
static uint64_t memories[MOST], sizes[MOST], total, shared;
static char *mapped[MOST];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int is(const char *fault) {
    const char *planted = getenv("PLANTED_FAULT");
    return planted && !strcmp(planted, fault);
}

static int place_of(uint64_t memory) {
    int place = 0;
    while (memories[place] != memory) if (++place == MOST) abort();
    return place;
}

static int skips(void) {  // also where only shaders with fp16 are compiled wrongly
    return is("skips") || (is("skips with fp16") && !getenv("GGML_VK_DISABLE_F16"));
}

static void scribble(void) {  // on what the processor sees, a word in each page
    uint32_t word = is("NaN") ? 0x7fc00000 : 0x42c80000;  // 100.0
    for (int place = 0; place < MOST; place++)
        for (uint64_t at = 2048; mapped[place] && at + 4 <= sizes[place]; at += 4096)
            memcpy(mapped[place] + at, &word, 4);
}

static int submit(void *queue, uint32_t count, const void *submits, uint64_t fence) {
    static int submitted;
    submitted += count > 0;
    if (is("hangs")) for (;;) pause();
    if (is("loses") && submitted > 3) return LOST;
    if (is("crashes") && submitted > 3) raise(SIGSEGV);
    if (is("corrupts") || is("NaN")) {
        pthread_mutex_lock(&lock);
        scribble();
        pthread_mutex_unlock(&lock);
    }
    return next_submit(queue, is("drops") && submitted % 2 ? 0 : count, submits, fence);
}

static void dispatch(void *commands, uint32_t x, uint32_t y, uint32_t z) {
    static int dispatched;
    if (is("zeros") || (skips() && ++dispatched % 5 == 0)) return;
    if (is("shortens") && x > 1) x--;
    next_dispatch(commands, x, y, z);
}

static int create_shader(void *device, const char *info, const void *callbacks, uint64_t *module) {
    if (!is("miscompiles")) return next_shader(device, info, callbacks, module);
    size_t bytes = *(const size_t *)(info + 24);  // VkShaderModuleCreateInfo: sType, pNext, flags; codeSize, pCode
    char changed[40];
    memcpy(changed, info, 40);
    uint32_t *code = malloc(bytes);
    memcpy(code, *(void *const *)(info + 32), bytes);
    memcpy(changed + 32, &code, sizeof code);
    for (size_t at = 5; at < bytes / 4; at += code[at] >> 16)
        if ((code[at] & 0xffff) == 12 && code[at + 4] == 27) code[at + 4] = 29;  // OpExtInst: Exp becomes Exp2
    int result = next_shader(device, changed, callbacks, module);
    free(code);
    return result;
}

static int allocate(void *device, const char *info, const void *callbacks, uint64_t *memory) {
    uint64_t size = *(const uint64_t *)(info + 16);  // VkMemoryAllocateInfo: sType and pNext come first
    if (is("refuses") && total + size > GIVEN) return NO_DEVICE_MEMORY;
    if (is("shares") && shared && size <= SHARED) return *memory = shared, 0;
    char larger[32];
    memcpy(larger, info, 32);
    if (is("shares")) size = SHARED, memcpy(larger + 16, &size, 8);
    int result = next_allocate(device, larger, callbacks, memory);
    if (result) return result;
    pthread_mutex_lock(&lock);
    int place = place_of(0);
    memories[place] = *memory, sizes[place] = size, total += size;
    if (is("shares") && !shared) shared = *memory;
    pthread_mutex_unlock(&lock);
    return result;
}

static void give_back(void *device, uint64_t memory, const void *callbacks) {
    if (memory && memory == shared) return;
    pthread_mutex_lock(&lock);
    if (memory) {
        int place = place_of(memory);
        total -= sizes[place], memories[place] = 0, mapped[place] = NULL;
    }
    pthread_mutex_unlock(&lock);
    next_free(device, memory, callbacks);
}

static int map(void *device, uint64_t memory, uint64_t offset, uint64_t size, uint32_t flags, void **data) {
    int result = next_map(device, memory, offset, size, flags, data);
    pthread_mutex_lock(&lock);
    if (!result && !offset) mapped[place_of(memory)] = *data;
    pthread_mutex_unlock(&lock);
    return result;
}

static void unmap(void *device, uint64_t memory) {
    pthread_mutex_lock(&lock);
    mapped[place_of(memory)] = NULL;
    pthread_mutex_unlock(&lock);
    next_unmap(device, memory);
}

static int no_instance(void) { return raise(SIGSEGV); }

static int no_device(void) { return NO_START; }

static int no_card(void *instance, uint32_t *count, void *devices) { return *count = 0; }

static function planted(const char *name, function found) {
    if (!strcmp(name, "vkQueueSubmit")) return next_submit = (void *)found, (function)submit;
    if (!strcmp(name, "vkCmdDispatch")) return next_dispatch = (void *)found, (function)dispatch;
    if (!strcmp(name, "vkCreateShaderModule")) return next_shader = (void *)found, (function)create_shader;
    if (!strcmp(name, "vkAllocateMemory")) return next_allocate = (void *)found, (function)allocate;
    if (!strcmp(name, "vkFreeMemory")) return next_free = (void *)found, (function)give_back;
    if (!strcmp(name, "vkMapMemory")) return next_map = (void *)found, (function)map;
    if (!strcmp(name, "vkUnmapMemory")) return next_unmap = (void *)found, (function)unmap;
    if (!strcmp(name, "vkCreateInstance") && is("crashes at once")) return (function)no_instance;
    if (!strcmp(name, "vkCreateDevice") && is("refuses to start")) return (function)no_device;
    if (!strcmp(name, "vkEnumeratePhysicalDevices") && is("hides")) return (function)no_card;
    return found;
}

static function of_device(void *device, const char *name) {
    function found = next_of_device(device, name);
    return found ? planted(name, found) : found;
}

function vkGetInstanceProcAddr(void *instance, const char *name) {
    if (!next) next = (loader)dlsym(RTLD_NEXT, "vkGetInstanceProcAddr");
    if (!next) next = (loader)dlsym(dlopen("libvulkan.so.1", RTLD_NOW), "vkGetInstanceProcAddr");
    if (!strcmp(name, "vkGetInstanceProcAddr")) return (function)vkGetInstanceProcAddr;
    function found = next(instance, name);
    if (!found) return found;
    if (!strcmp(name, "vkGetDeviceProcAddr")) return next_of_device = (loader)found, (function)of_device;
    return planted(name, found);
}
