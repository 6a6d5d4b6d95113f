// SPDX-License-Identifier: GPL-2.0
// Harmless attacks on the kernel of the lab's own guests: each does just the manipulation that one detector must find, and
// undoes it when it is unloaded.
//
// kind=pointer   at, was: replaces the pointer `was` in the table at `at` by a function here that calls the original
// kind=blink     the same for 50 ms in every second
// kind=code      at: writes a jump to a function here over the first bytes at `at`
// kind=byte      at: turns over the lowest bit of the byte at `at`
// kind=gate      at: lets the interrupt gate at `at` lead here
// kind=idtr      at: loads a copy of the interrupt table at `at` into every processor
// kind=lstar     was: leads the system calls of every processor here, and on to `was`
// kind=xen       was: has Xen, under which this kernel is paravirtual, lead its system calls here, and on to `was`
// kind=smep      lets every processor run the memory of programs with the kernel's rights
// kind=text      at, text: writes a string
// kind=kprobe    at: probes the instruction
// kind=ftrace    at: traces the function
// kind=packets   sees all IPv4 packets that come in
// kind=keys      is told of keys
// kind=creds     pid: gives the process the credentials of process 1
// kind=raise     pid: writes 0 over the user ids of the process
// kind=drop      text: takes the file of that path out of its folder, where it is in memory only
// kind=port      pid: takes the process's first descriptor of a socket away, the socket stays open
//
// Built without kbuild, so that any compiler will do: lab/src/module.rs gives the flags and the include folders.

#define INCLUDE_VERMAGIC
#include <linux/module.h>
#include <linux/vermagic.h>
#include <linux/version.h>
#include <linux/cred.h>
#include <linux/dcache.h>
#include <linux/delay.h>
#include <linux/fdtable.h>
#include <linux/fs.h>
#include <linux/ftrace.h>
#include <linux/keyboard.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/namei.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <net/net_namespace.h>
#include <asm/msr-index.h>

/* Words that are searched for the pointer. */
#define MAX_WORDS 1024

static char *kind = "";
module_param(kind, charp, 0);
static ulong at;
module_param(at, ulong, 0);
static ulong was;
module_param(was, ulong, 0);
static char *text = "";
module_param(text, charp, 0);
static int pid;
module_param(pid, int, 0);

typedef long (*any_function)(long, long, long, long, long, long);

/* What was changed, and how it was before. */
static void *changed;
static unsigned char before[256];
static size_t changed_bytes;

static long pass_on(long a, long b, long c, long d, long e, long f)
{
	return ((any_function)was)(a, b, c, d, e, f);
}

/* The kernel's constants and text are mapped read-only: without this bit its own writes ignore that. */
static void write_anywhere(void *to, const void *from, size_t len)
{
	unsigned long flags, cr0;

	local_irq_save(flags);
	asm volatile("mov %%cr0, %0" : "=r"(cr0));
	asm volatile("mov %0, %%cr0" : : "r"(cr0 & ~0x10000ul) : "memory");
	__builtin_memcpy(to, from, len);
	asm volatile("mov %0, %%cr0" : : "r"(cr0) : "memory");
	local_irq_restore(flags);
}

static void change(void *to, const void *from, size_t len)
{
	changed = to;
	changed_bytes = len;
	__builtin_memcpy(before, to, len);
	write_anywhere(to, from, len);
}

static int change_pointer(void)
{
	unsigned long *table = (unsigned long *)at, new = (unsigned long)pass_on;
	int i;

	for (i = 0; i < MAX_WORDS; i++)
		if (table[i] == was) {
			change(&table[i], &new, sizeof(new));
			return 0;
		}
	return -ESRCH;
}

/* What has to be done again and again, or at times. */
static struct task_struct *blinker;

/* A hook that is gone most of the time. */
static int blink(void *unused)
{
	while (!kthread_should_stop()) {
		change_pointer();
		msleep(50);
		write_anywhere(changed, before, changed_bytes);
		msleep(950);
	}
	return 0;
}

static int start_blinking(void)
{
	int result = change_pointer();

	if (result)
		return result;
	write_anywhere(changed, before, changed_bytes);
	blinker = kthread_run(blink, NULL, "lab-blink");
	return IS_ERR(blinker) ? PTR_ERR(blinker) : 0;
}

static void change_code(void)
{
	unsigned char jump[5] = { 0xe9 };
	int distance = (int)((unsigned long)pass_on - (at + 5));

	__builtin_memcpy(jump + 1, &distance, 4);
	change((void *)at, jump, sizeof(jump));
}

static void change_gate(void)
{
	unsigned char gate[16];
	unsigned long to = (unsigned long)pass_on;

	__builtin_memcpy(gate, (void *)at, sizeof(gate));
	__builtin_memcpy(gate, &to, 2);
	__builtin_memcpy(gate + 6, (char *)&to + 2, 6);
	change((void *)at, gate, sizeof(gate));
}

/* Where a system call arrives: with the registers and the stack of the program that made it. */
asm(".pushsection .text\n"
    "lab_entry:\n"
    "	endbr64\n"
    "	jmp *was(%rip)\n"
    ".popsection\n");
extern char lab_entry[];

static unsigned char table[4096] __attribute__((aligned(4096)));
struct table_register {
	unsigned short limit;
	unsigned long base;
} __attribute__((packed));
static struct table_register own_table;

static void load_table(void *back)
{
	struct table_register new = { .limit = sizeof(table) - 1, .base = (unsigned long)table };

	if (back)
		new = own_table;
	else
		asm volatile("sidt %0" : "=m"(own_table));
	asm volatile("lidt %0" : : "m"(new));
}

static void change_entry(void *back)
{
	unsigned long to = back ? was : (unsigned long)lab_entry;

	asm volatile("wrmsr" : : "c"(MSR_LSTAR), "a"((unsigned int)to), "d"((unsigned int)(to >> 32)));
}

/* CALLBACKOP_register of CALLBACKTYPE_syscall (xen/include/public/callback.h), by a hypercall of 64-bit PV kernels. */
static void register_entry(void *back)
{
	struct {
		unsigned short type, flags;
		unsigned long address;
	} callback = { .type = 2, .address = back ? was : (unsigned long)lab_entry };
	long done = 30, op = 0;
	void *what = &callback;

	asm volatile("syscall" : "+a"(done), "+D"(op), "+S"(what) : : "rcx", "r11", "memory");
	WARN_ON(done);
}

#define SMEP (1ul << 20)
static void change_smep(void *back)
{
	unsigned long cr4;

	asm volatile("mov %%cr4, %0" : "=r"(cr4));
	asm volatile("mov %0, %%cr4" : : "r"(back ? cr4 | SMEP : cr4 & ~SMEP) : "memory");
}

/* What is done to every processor, and undone with an argument. */
static void (*each)(void *);

static int change_each(void (*how)(void *))
{
	each = how;
	on_each_cpu(how, NULL, 1);
	return 0;
}

/* A processor without INVPCID flushes its TLB by writing CR4, as the kernel wants it. */
static int keep_smep_off(void *unused)
{
	while (!kthread_should_stop()) {
		on_each_cpu(change_smep, NULL, 1);
		msleep(1);
	}
	return 0;
}

static int start_unprotected(void)
{
	change_each(change_smep);
	blinker = kthread_run(keep_smep_off, NULL, "lab-unprotected");
	return IS_ERR(blinker) ? PTR_ERR(blinker) : 0;
}

static void change_text(void)
{
	change((void *)at, text, __builtin_strlen(text) + 1);
}

static int probed(struct kprobe *probe, struct pt_regs *regs)
{
	return 0;
}
static struct kprobe probe = { .pre_handler = probed };

#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 11, 0)
static void traced(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *regs)
#else
static void traced(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct pt_regs *regs)
#endif
{
}
static struct ftrace_ops trace = { .func = traced };

static unsigned int seen(void *own, struct sk_buff *packet, const struct nf_hook_state *state)
{
	return NF_ACCEPT;
}
static struct nf_hook_ops packets = {
	.hook = seen,
	.pf = NFPROTO_IPV4,
	.hooknum = NF_INET_PRE_ROUTING,
	.priority = NF_IP_PRI_FIRST,
};

static int pressed(struct notifier_block *block, unsigned long event, void *key)
{
	return NOTIFY_OK;
}
static struct notifier_block keys = { .notifier_call = pressed };

static const struct cred *own_cred, *own_real_cred;

static int give_credentials(int from, bool back)
{
	struct task_struct *task, *init;
	int result = -ESRCH;

	rcu_read_lock();
	task = pid_task(find_vpid(from), PIDTYPE_PID);
	init = pid_task(find_vpid(1), PIDTYPE_PID);
	if (task && init) {
		if (!back) {
			own_cred = task->cred;
			own_real_cred = task->real_cred;
		}
		*(const struct cred **)&task->cred = back ? own_cred : init->cred;
		*(const struct cred **)&task->real_cred = back ? own_real_cred : init->cred;
		result = 0;
	}
	rcu_read_unlock();
	return result;
}

static bool is(const char *name)
{
	return __builtin_strcmp(kind, name) == 0;
}

/* What an exploit does that can write to kernel memory and not call into it. */
static int raise(int number, bool back)
{
	static kuid_t old[4];
	struct task_struct *task;
	struct cred *cred;
	int done = -ESRCH;

	rcu_read_lock();
	task = pid_task(find_vpid(number), PIDTYPE_PID);
	if (task) {
		cred = (struct cred *)rcu_dereference(task->real_cred);
		if (!back) {
			old[0] = cred->uid, old[1] = cred->euid;
			old[2] = cred->suid, old[3] = cred->fsuid;
			cred->uid = cred->euid = cred->suid = cred->fsuid = GLOBAL_ROOT_UID;
		} else {
			cred->uid = old[0], cred->euid = old[1];
			cred->suid = old[2], cred->fsuid = old[3];
		}
		done = 0;
	}
	rcu_read_unlock();
	return done;
}

static struct file **slot, *hidden;

/* As if the process that has the socket were hidden with it. */
static int hide_descriptor(int number)
{
	struct task_struct *task;
	struct fdtable *table;
	unsigned int fd;
	int done = -ESRCH;

	rcu_read_lock();
	task = pid_task(find_vpid(number), PIDTYPE_PID);
	table = task && task->files ? rcu_dereference_raw(task->files->fdt) : NULL;
	for (fd = 3; table && fd < table->max_fds && done; fd++) {
		struct file *file = rcu_dereference_raw(table->fd[fd]);

		if (!file || !S_ISSOCK(file_inode(file)->i_mode))
			continue;
		slot = (struct file **)&table->fd[fd];
		hidden = file;
		WRITE_ONCE(*slot, NULL);
		done = 0;
	}
	rcu_read_unlock();
	return done;
}

static void show_descriptor(void)
{
	WRITE_ONCE(*slot, hidden);
}

static struct path dropped;

static int drop_name(void)
{
	int result = kern_path(text, 0, &dropped);

	if (!result)
		d_drop(dropped.dentry);
	return result;
}

static void return_name(void)
{
	d_rehash(dropped.dentry);
	path_put(&dropped);
}

static int __init attack_init(void)
{
	unsigned char byte;

	if (is("pointer"))
		return change_pointer();
	if (is("blink"))
		return start_blinking();
	if (is("code"))
		return change_code(), 0;
	if (is("gate"))
		return change_gate(), 0;
	if (is("idtr"))
		return __builtin_memcpy(table, (void *)at, sizeof(table)), change_each(load_table);
	if (is("lstar"))
		return change_each(change_entry);
	if (is("xen"))
		return change_each(register_entry);
	if (is("smep"))
		return start_unprotected();
	if (is("text"))
		return change_text(), 0;
	if (is("byte")) {
		byte = *(unsigned char *)at ^ 1;
		return change((void *)at, &byte, 1), 0;
	}
	if (is("kprobe")) {
		probe.addr = (kprobe_opcode_t *)at;
		return register_kprobe(&probe);
	}
	if (is("ftrace"))
		return ftrace_set_filter_ip(&trace, at, 0, 0) ?: register_ftrace_function(&trace);
	if (is("packets"))
		return nf_register_net_hook(&init_net, &packets);
	if (is("keys"))
		return register_keyboard_notifier(&keys);
	if (is("creds"))
		return give_credentials(pid, false);
	if (is("raise"))
		return raise(pid, false);
	if (is("drop"))
		return drop_name();
	if (is("port"))
		return hide_descriptor(pid);
	return -EINVAL;
}
module_init(attack_init);

static void __exit attack_exit(void)
{
	if (blinker)
		kthread_stop(blinker);
	if (each)
		on_each_cpu(each, &each, 1);
	else if (changed)
		write_anywhere(changed, before, changed_bytes);
	else if (is("kprobe"))
		unregister_kprobe(&probe);
	else if (is("ftrace"))
		unregister_ftrace_function(&trace);
	else if (is("packets"))
		nf_unregister_net_hook(&init_net, &packets);
	else if (is("keys"))
		unregister_keyboard_notifier(&keys);
	else if (is("creds"))
		give_credentials(pid, true);
	else if (is("raise"))
		raise(pid, true);
	else if (is("drop"))
		return_name();
	else if (is("port"))
		show_descriptor();
}
module_exit(attack_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Lynceus lab: harmless attacks on the kernel");
MODULE_INFO(vermagic, VERMAGIC_STRING);
MODULE_INFO(name, KBUILD_MODNAME);

/* What modpost would write. */
__attribute__((visibility("default"))) struct module __this_module
	__attribute__((section(".gnu.linkonce.this_module"))) = {
	.name = KBUILD_MODNAME,
	.init = init_module,
	.exit = cleanup_module,
	.arch = MODULE_ARCH_INIT,
};
