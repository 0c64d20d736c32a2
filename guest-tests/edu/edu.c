// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Driver of QEMU's educational device, for tests: has it raise interrupts on each processor in
 * turn, and says how many came, by what, and where.
 *
 * Spec: QEMU, docs/specs/edu.rst. In trapline the interrupt of a factorial comes from a thread of
 * the VMM's and not from the processor that asks for it, and there is MSI-X: the lowest bit raised
 * names the vector.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/io.h>
#include <linux/iopoll.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sort.h>
#include <linux/timex.h>

#define EDU_LIVENESS	0x04 /* what was written, inverted */
#define EDU_FACTORIAL	0x08
#define EDU_STATUS	0x20
#define EDU_COMPUTING	0x01
#define EDU_INTERRUPT	0x80 /* when the factorial is computed */
#define EDU_RAISED	0x24 /* what was raised and is not acknowledged */
#define EDU_RAISE	0x60
#define EDU_ACKNOWLEDGE	0x64

/* On each processor. */
#define ROUNDS		8
/* Interrupts on another processor until a move has taken effect, at most. */
#define SETTLING	1000
/* With the interrupt on its way each time. */
#define MOVES		64

#define VECTORS		4
#define VECTORS_MASK	(BIT(VECTORS) - 1)

#define MSIX_BAR	1
#define MSIX_PENDING	0x800 /* in that BAR */

/* How often each thing is done that is measured. */
#define SAMPLES		201

static bool measure;
module_param(measure, bool, 0444);
MODULE_PARM_DESC(measure, "Say what accesses and interrupts cost, in cycles, and test nothing");

struct edu;

/* One interrupt: the pin, the message of MSI, or a vector of MSI-X. */
struct edu_vector {
	struct edu *edu;
	unsigned int number;
	int irq;
	struct completion came;
	unsigned int count;
	unsigned int cpu;
	u32 value;
	cycles_t when;
};

struct edu {
	struct pci_dev *pdev;
	void __iomem *regs;
	void __iomem *msix;
	struct edu_vector vectors[VECTORS];
	/* The processors on which interrupts came that were sent there. */
	struct cpumask seen;
};

#define EDUS_MAX	31

static struct edu *edus[EDUS_MAX];
static unsigned int edu_count;

static irqreturn_t edu_interrupt(int irq, void *data)
{
	struct edu_vector *vector = data;
	struct edu *edu = vector->edu;
	cycles_t now = get_cycles();
	u32 value = readl(edu->regs + EDU_RAISED);

	if (edu->pdev->msix_enabled)
		value &= ~(VECTORS_MASK & ~BIT(vector->number));
	if (!value)
		return IRQ_NONE;
	writel(value, edu->regs + EDU_ACKNOWLEDGE);
	vector->value = value;
	vector->when = now;
	WRITE_ONCE(vector->count, vector->count + 1);
	vector->cpu = smp_processor_id();
	complete(&vector->came);
	return IRQ_HANDLED;
}

static int edu_request(struct edu *edu, unsigned int number, unsigned long flags)
{
	struct edu_vector *vector = &edu->vectors[number];

	vector->irq = pci_irq_vector(edu->pdev, number);
	return request_irq(vector->irq, edu_interrupt, flags, "edu", vector);
}

static bool edu_came(struct edu_vector *vector)
{
	return wait_for_completion_timeout(&vector->came, 5 * HZ);
}

static const char *edu_means(struct edu *edu)
{
	return edu->pdev->msix_enabled ? "MSI-X" : edu->pdev->msi_enabled ? "MSI" : "INTA#";
}

static void edu_forget(struct edu *edu)
{
	unsigned int n;

	for (n = 0; n < VECTORS; n++) {
		reinit_completion(&edu->vectors[n].came);
		edu->vectors[n].count = 0;
	}
	cpumask_clear(&edu->seen);
}

/* Has a thread raise the first interrupt. */
static void edu_compute(struct edu *edu)
{
	writel(EDU_INTERRUPT, edu->regs + EDU_STATUS);
	writel(5, edu->regs + EDU_FACTORIAL);
}

static bool edu_computed(struct edu *edu)
{
	u32 status;

	return !readl_poll_timeout(edu->regs + EDU_STATUS, status, !(status & EDU_COMPUTING), 100,
				   5 * USEC_PER_SEC);
}

/* Sends an interrupt to a processor. The 8259s know one only. */
static bool edu_move(struct edu_vector *vector, unsigned int cpu)
{
	return num_online_cpus() == 1 || !irq_set_affinity(vector->irq, cpumask_of(cpu));
}

/*
 * Waits until a move has taken effect. On x86 that is when an interrupt comes and no processor has to
 * clean up after an earlier move.
 */
static bool edu_settle(struct edu_vector *vector, unsigned int cpu)
{
	unsigned int time, count = vector->count;

	for (time = 0; time < SETTLING; time++) {
		reinit_completion(&vector->came);
		writel(BIT(vector->number), vector->edu->regs + EDU_RAISE);
		if (!edu_came(vector))
			return false;
		vector->count = count;
		if (vector->cpu == cpu)
			return true;
		msleep(1);
	}
	return false;
}

/*
 * Has interrupts raised, each of which is to come, on this processor, with the value that was raised;
 * says what is wrong, if anything is.
 */
static const char *edu_rounds(struct edu_vector *vector, unsigned int cpu, bool by_thread)
{
	struct edu *edu = vector->edu;
	u32 round;

	if (!edu_move(vector, cpu) || !edu_settle(vector, cpu))
		return "cannot be moved";
	for (round = 1; round <= ROUNDS; round++) {
		u32 value = by_thread ? 1 : round << VECTORS | BIT(vector->number);

		reinit_completion(&vector->came);
		if (by_thread)
			edu_compute(edu);
		else
			writel(value, edu->regs + EDU_RAISE);
		if (!edu_came(vector))
			return "is lost";
		if (vector->value != value)
			return "is another";
		if (vector->cpu != cpu)
			return "is on another";
		cpumask_set_cpu(cpu, &edu->seen);
	}
	return NULL;
}

/* Every vector's interrupts on every processor, raised by the processor or by a thread. */
static void edu_test(struct edu *edu, unsigned int vectors, bool by_thread)
{
	unsigned int cpu, n, count = 0;

	edu_forget(edu);
	for (n = 0; n < vectors; n++) {
		for_each_online_cpu(cpu) {
			const char *wrong = edu_rounds(&edu->vectors[n], cpu, by_thread);

			if (wrong)
				dev_err(&edu->pdev->dev, "interrupt %u on CPU %u %s\n", n, cpu,
					wrong);
		}
		count += edu->vectors[n].count;
	}
	dev_info(&edu->pdev->dev, "%u of %u interrupts%s by %s on CPU %*pbl\n", count,
		 ROUNDS * vectors * num_online_cpus(), by_thread ? " of a thread" : "",
		 edu_means(edu), cpumask_pr_args(&edu->seen));
}

/* Moves an interrupt to another processor while it is on its way, again and again. */
static void edu_moves(struct edu *edu)
{
	struct edu_vector *vector = &edu->vectors[0];
	unsigned int move, cpu = cpumask_first(cpu_online_mask);

	if (num_online_cpus() == 1)
		return;
	edu_forget(edu);
	for (move = 0; move < MOVES; move++) {
		cpu = cpumask_next(cpu, cpu_online_mask);
		if (cpu >= nr_cpu_ids)
			cpu = cpumask_first(cpu_online_mask);
		reinit_completion(&vector->came);
		edu_compute(edu);
		if (!edu_move(vector, cpu) || !edu_came(vector)) {
			dev_err(&edu->pdev->dev, "interrupt 0 on its way to CPU %u is lost\n", cpu);
			break;
		}
	}
	dev_info(&edu->pdev->dev, "%u of %u moved interrupts by %s\n", vector->count, MOVES,
		 edu_means(edu));
}

static u32 edu_pending(struct edu *edu)
{
	return readl(edu->msix + MSIX_PENDING);
}

static unsigned int edu_total(struct edu *edu)
{
	unsigned int n, count = 0;

	for (n = 0; n < VECTORS; n++)
		count += edu->vectors[n].count;
	return count;
}

/* Raises a vector's interrupt twice; as it is masked, that is one. */
static bool edu_raise_masked(struct edu_vector *vector, bool by_thread)
{
	struct edu *edu = vector->edu;
	unsigned int time;

	for (time = 0; time < 2; time++) {
		if (by_thread) {
			edu_compute(edu);
			if (!edu_computed(edu))
				return false;
		} else {
			writel(BIT(vector->number), edu->regs + EDU_RAISE);
		}
	}
	return true;
}

/* Whether an interrupt is pending while its vector is masked, and comes, once, when it is not. */
static bool edu_masked_vector(struct edu_vector *vector, bool by_thread)
{
	struct edu *edu = vector->edu;
	bool pending;

	edu_forget(edu);
	irq_set_status_flags(vector->irq, IRQ_DISABLE_UNLAZY); /* in the table, at once */
	disable_irq(vector->irq);
	pending = !edu_pending(edu) && edu_raise_masked(vector, by_thread) &&
		  edu_pending(edu) == BIT(vector->number) && !edu_total(edu);
	enable_irq(vector->irq);
	irq_clear_status_flags(vector->irq, IRQ_DISABLE_UNLAZY);
	if (!edu_came(vector))
		return false;
	msleep(20);
	return pending && edu_total(edu) == 1 && !edu_pending(edu);
}

static void edu_mask_function(struct edu *edu, bool masked)
{
	int at = edu->pdev->msix_cap + PCI_MSIX_FLAGS;
	u16 control;

	pci_read_config_word(edu->pdev, at, &control);
	control &= ~PCI_MSIX_FLAGS_MASKALL;
	if (masked)
		control |= PCI_MSIX_FLAGS_MASKALL;
	pci_write_config_word(edu->pdev, at, control);
}

/* The same of all vectors together, by the function's mask. */
static bool edu_masked_function(struct edu *edu, bool by_thread)
{
	unsigned int n;
	bool good;

	edu_forget(edu);
	edu_mask_function(edu, true);
	good = !edu_pending(edu);
	for (n = 0; n < VECTORS; n++)
		good &= edu_raise_masked(&edu->vectors[n], by_thread && !n);
	good &= edu_pending(edu) == VECTORS_MASK && !edu_total(edu);
	edu_mask_function(edu, false);
	for (n = 0; n < VECTORS; n++)
		good &= edu_came(&edu->vectors[n]);
	msleep(20);
	return good && edu_total(edu) == VECTORS && !edu_pending(edu);
}

static void edu_masks(struct edu *edu)
{
	unsigned int n, good = 0;

	for (n = 0; n < VECTORS; n++)
		good += edu_masked_vector(&edu->vectors[n], false);
	good += edu_masked_vector(&edu->vectors[0], true);
	dev_info(&edu->pdev->dev, "%u of %u pending while the vector is masked, then come\n", good,
		 VECTORS + 1);
	good = edu_masked_function(edu, false) + edu_masked_function(edu, true);
	dev_info(&edu->pdev->dev, "%u of 2 pending while the function is masked, then come\n",
		 good);
}

static int edu_compare(const void *a, const void *b)
{
	u64 left = *(const u64 *)a, right = *(const u64 *)b;

	return left < right ? -1 : left > right;
}

/* The median. */
static void edu_tell(struct edu *edu, const char *thing, const char *part, u64 *samples)
{
	sort(samples, SAMPLES, sizeof(*samples), edu_compare, NULL);
	dev_info(&edu->pdev->dev, "measured %s %s %llu\n", thing, part, samples[SAMPLES / 2]);
}

/* What a read and a write of a register cost. */
static void edu_measure_accesses(struct edu *edu, u64 *samples)
{
	unsigned int n;

	for (n = 0; n < SAMPLES; n++) {
		cycles_t start = get_cycles();

		readl(edu->regs + EDU_LIVENESS);
		samples[n] = get_cycles() - start;
	}
	edu_tell(edu, "register", "read", samples);
	for (n = 0; n < SAMPLES; n++) {
		cycles_t start = get_cycles();

		writel(n, edu->regs + EDU_LIVENESS);
		samples[n] = get_cycles() - start;
	}
	edu_tell(edu, "register", "write", samples);
}

/*
 * How long after the write that raises it an interrupt is in its handler while the processor does
 * nothing but look for it, and how long until the processor is back from there and finds that it came.
 */
static int edu_measure_interrupts(struct edu *edu, u64 *samples, u64 *ends, unsigned int means)
{
	struct edu_vector *vector = &edu->vectors[0];
	unsigned int n, turns;
	int error = pci_alloc_irq_vectors(edu->pdev, 1, 1, means);

	if (error < 0)
		return error;
	error = edu_request(edu, 0, IRQF_SHARED);
	if (error)
		goto out;
	for (n = 0; !error && n < SAMPLES; n++) {
		unsigned int count = vector->count;
		cycles_t start = get_cycles();

		writel(1, edu->regs + EDU_RAISE);
		for (turns = 0; READ_ONCE(vector->count) == count && turns < 1000000; turns++)
			cpu_relax();
		ends[n] = get_cycles() - start;
		samples[n] = vector->when - start;
		if (vector->count == count)
			error = -ETIMEDOUT;
	}
	if (!error) {
		edu_tell(edu, edu_means(edu), "handler", samples);
		edu_tell(edu, edu_means(edu), "return", ends);
	}
	free_irq(vector->irq, vector);
out:
	pci_free_irq_vectors(edu->pdev);
	return error;
}

/* In place of all tests. The device is nobody's afterwards. */
static int edu_measure(struct edu *edu)
{
	u64 *samples = kmalloc_array(2 * SAMPLES, sizeof(*samples), GFP_KERNEL);
	int error;

	if (!samples)
		return -ENOMEM;
	edu_measure_accesses(edu, samples);
	error = edu_measure_interrupts(edu, samples, samples + SAMPLES, PCI_IRQ_MSI);
	if (!error)
		error = edu_measure_interrupts(edu, samples, samples + SAMPLES,
					       PCI_IRQ_ALL_TYPES & ~(PCI_IRQ_MSI | PCI_IRQ_MSIX));
	kfree(samples);
	return error ? error : -ENODEV;
}

/* MSI-X, where the machine has it; then the rest goes on with what is left. */
static int edu_msix(struct edu *edu)
{
	unsigned int n, requested = 0;
	int error = 0;

	if (pci_alloc_irq_vectors(edu->pdev, VECTORS, VECTORS, PCI_IRQ_MSIX) < 0)
		return 0;
	while (requested < VECTORS) {
		error = edu_request(edu, requested, 0);
		if (error)
			break;
		requested++;
	}
	if (!error) {
		edu_test(edu, VECTORS, false);
		edu_test(edu, 1, true);
		edu_moves(edu);
		edu_masks(edu);
	}
	for (n = 0; n < requested; n++)
		free_irq(edu->vectors[n].irq, &edu->vectors[n]);
	pci_free_irq_vectors(edu->pdev);
	return error;
}

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct edu *edu = devm_kzalloc(&pdev->dev, sizeof(*edu), GFP_KERNEL);
	unsigned int n;
	int error;

	if (!edu)
		return -ENOMEM;
	edu->pdev = pdev;
	pci_set_drvdata(pdev, edu);
	for (n = 0; n < VECTORS; n++) {
		edu->vectors[n].edu = edu;
		edu->vectors[n].number = n;
		init_completion(&edu->vectors[n].came);
	}
	error = pcim_enable_device(pdev);
	if (error)
		return error;
	edu->regs = pcim_iomap(pdev, 0, 0);
	if (!edu->regs)
		return -ENOMEM;
	if (pci_resource_len(pdev, MSIX_BAR)) { /* QEMU's has none */
		edu->msix = pcim_iomap(pdev, MSIX_BAR, 0);
		if (!edu->msix)
			return -ENOMEM;
	}
	pci_set_master(pdev); /* messages are writes to memory */
	if (measure)
		return edu_measure(edu);
	error = edu_msix(edu);
	if (error)
		return error;
	error = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_ALL_TYPES & ~PCI_IRQ_MSIX);
	if (error < 0)
		return error;
	error = edu_request(edu, 0, IRQF_SHARED);
	if (error) {
		pci_free_irq_vectors(pdev);
		return error;
	}
	edu_test(edu, 1, false);
	edu_test(edu, 1, true);
	if (edu_count < EDUS_MAX)
		edus[edu_count++] = edu;
	return 0;
}

static void edu_remove(struct pci_dev *pdev)
{
	struct edu *edu = pci_get_drvdata(pdev);

	free_irq(edu->vectors[0].irq, &edu->vectors[0]);
	pci_free_irq_vectors(pdev);
}

/* Whether all interrupts come that are raised at once, some of them by the same line. */
static void edu_all_at_once(void)
{
	unsigned int n, came = 0;

	for (n = 0; n < edu_count; n++)
		reinit_completion(&edus[n]->vectors[0].came);
	local_irq_disable();
	for (n = 0; n < edu_count; n++)
		writel(1, edus[n]->regs + EDU_RAISE);
	local_irq_enable();
	for (n = 0; n < edu_count; n++)
		came += edu_came(&edus[n]->vectors[0]);
	pr_info("edu all at once: %u of %u interrupts\n", came, edu_count);
}

static const struct pci_device_id edu_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{ }
};
MODULE_DEVICE_TABLE(pci, edu_ids);

static struct pci_driver edu_driver = {
	.name = "edu",
	.id_table = edu_ids,
	.probe = edu_probe,
	.remove = edu_remove,
};

static int __init edu_init(void)
{
	int error = pci_register_driver(&edu_driver);

	if (!error)
		edu_all_at_once();
	return error;
}
module_init(edu_init);

static void __exit edu_exit(void)
{
	pci_unregister_driver(&edu_driver);
}
module_exit(edu_exit);

MODULE_DESCRIPTION("Test of QEMU's educational device");
MODULE_LICENSE("Dual MIT/GPL");
