/* Times a process list, pid and name, in a loop of LibVMI: libvmi-loop IMAGE ISF.
 * Prints lines of a name, a tab and nanoseconds (medians of 15 rounds). Compiled by `cargo xtask bench`
 * where LYNCEUS_BENCH_LIBVMI_SRC names LibVMI's source tree. */
#include <libvmi/libvmi.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 15, MOST_TASKS = 100000 };

static addr_t tasks, pid, name;

static unsigned list(vmi_instance_t vmi, addr_t head)
{
    unsigned count = 0;
    addr_t at = head;
    do {
        uint32_t number = 0;
        addr_t task = at - tasks;
        if (vmi_read_32_va(vmi, task + pid, 0, &number) != VMI_SUCCESS)
            exit(3);
        char *comm = vmi_read_str_va(vmi, task + name, 0);
        if (!comm)
            exit(3);
        free(comm);
        count++;
        if (vmi_read_addr_va(vmi, at, 0, &at) != VMI_SUCCESS)
            exit(3);
    } while (at != head && count < MOST_TASKS);
    return count;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(vmi_instance_t vmi, addr_t head, int times, int flush)
{
    double rounds[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        for (int i = 0; i < times; i++) {
            if (flush) {
                vmi_v2pcache_flush(vmi, ~0ull);
                vmi_pagecache_flush(vmi);
            }
            list(vmi, head);
        }
        clock_gettime(CLOCK_MONOTONIC, &to);
        rounds[round] = ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / times;
    }
    qsort(rounds, ROUNDS, sizeof *rounds, ascending);
    return rounds[ROUNDS / 2];
}

int main(int argc, char **argv)
{
    vmi_instance_t vmi = NULL;
    addr_t head = 0;
    if (argc != 3 || vmi_init_complete(&vmi, argv[1], VMI_INIT_DOMAINNAME, NULL, VMI_CONFIG_JSON_PATH, argv[2], NULL) != VMI_SUCCESS)
        return 2;
    if (vmi_get_offset(vmi, "linux_tasks", &tasks) != VMI_SUCCESS || vmi_get_offset(vmi, "linux_pid", &pid) != VMI_SUCCESS
        || vmi_get_offset(vmi, "linux_name", &name) != VMI_SUCCESS
        || vmi_translate_ksym2v(vmi, "init_task", &head) != VMI_SUCCESS)
        return 2;
    head += tasks;
    printf("tasks\t%u\n", list(vmi, head));
    printf("warm\t%.1f\n", median(vmi, head, 500, 0));
    printf("cold\t%.1f\n", median(vmi, head, 500, 1));
    vmi_destroy(vmi);
    return 0;
}
