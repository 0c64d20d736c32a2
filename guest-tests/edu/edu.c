// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Driver of QEMU's educational device, for tests: has it raise interrupts on each processor in
 * turn, and says how many came, by what, and where.
 *
 * Spec: QEMU, docs/specs/edu.rst.
 */
#include <linux/completion.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>

#define EDU_STATUS	0x24 /* what was raised and is not acknowledged */
#define EDU_RAISE	0x60
#define EDU_ACKNOWLEDGE	0x64

/* On each processor. */
#define ROUNDS		8

#define MSIX_BAR	1
#define MSIX_PENDING	0x800 /* in that BAR */

struct edu {
	struct pci_dev *pdev;
	void __iomem *regs;
	struct completion came;
	struct cpumask seen;
	unsigned int count;
	u32 value;
};

#define EDUS_MAX	31

static struct edu *edus[EDUS_MAX];
static unsigned int edu_count;

static irqreturn_t edu_interrupt(int irq, void *data)
{
	struct edu *edu = data;
	u32 value = readl(edu->regs + EDU_STATUS);

	if (!value)
		return IRQ_NONE;
	writel(value, edu->regs + EDU_ACKNOWLEDGE);
	edu->value = value;
	edu->count++;
	cpumask_set_cpu(smp_processor_id(), &edu->seen);
	complete(&edu->came);
	return IRQ_HANDLED;
}

/* Whether each interrupt comes, on this processor, with the value that was raised. */
static bool edu_rounds(struct edu *edu, int irq, unsigned int cpu)
{
	u32 round;

	/* The 8259s know one processor only. */
	if (num_online_cpus() > 1 && irq_set_affinity(irq, cpumask_of(cpu)))
		return false;
	for (round = 1; round <= ROUNDS; round++) {
		/* The lowest bit names the MSI-X vector: always the first. */
		u32 value = round << 4 | 1;

		reinit_completion(&edu->came);
		writel(value, edu->regs + EDU_RAISE);
		if (!wait_for_completion_timeout(&edu->came, 5 * HZ) || edu->value != value)
			return false;
	}
	return true;
}

static void edu_test(struct edu *edu, int irq)
{
	const char *means = edu->pdev->msix_enabled ? "MSI-X" :
			    edu->pdev->msi_enabled ? "MSI" : "INTA#";
	unsigned int cpu;

	edu->count = 0;
	cpumask_clear(&edu->seen);
	for_each_online_cpu(cpu) {
		if (!edu_rounds(edu, irq, cpu))
			dev_err(&edu->pdev->dev, "interrupt lost on CPU %u\n", cpu);
	}
	dev_info(&edu->pdev->dev, "%u of %u interrupts by %s on CPU %*pbl\n", edu->count,
		 ROUNDS * num_online_cpus(), means, cpumask_pr_args(&edu->seen));
}

/* Whether an interrupt that is raised while it is masked is pending, and comes once it is not. */
static bool edu_masked(struct edu *edu, int irq)
{
	void __iomem *msix = pcim_iomap(edu->pdev, MSIX_BAR, 0);
	bool pending;

	if (!msix)
		return false;
	irq_set_status_flags(irq, IRQ_DISABLE_UNLAZY); /* in the table, at once */
	disable_irq(irq);
	reinit_completion(&edu->came);
	writel(1, edu->regs + EDU_RAISE);
	pending = readl(msix + MSIX_PENDING) & 1 && !completion_done(&edu->came);
	enable_irq(irq);
	return wait_for_completion_timeout(&edu->came, 5 * HZ) && pending &&
	       !(readl(msix + MSIX_PENDING) & 1);
}

/* MSI-X, where the machine has it; then the rest goes on with what is left. */
static int edu_msix(struct edu *edu)
{
	int irq, error;

	if (pci_alloc_irq_vectors(edu->pdev, 1, 1, PCI_IRQ_MSIX) < 0)
		return 0;
	irq = pci_irq_vector(edu->pdev, 0);
	error = request_irq(irq, edu_interrupt, 0, "edu", edu);
	if (!error) {
		edu_test(edu, irq);
		dev_info(&edu->pdev->dev, "masked MSI-X %s\n",
			 edu_masked(edu, irq) ? "is pending, then comes" : "is lost");
		free_irq(irq, edu);
	}
	pci_free_irq_vectors(edu->pdev);
	return error;
}

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct edu *edu = devm_kzalloc(&pdev->dev, sizeof(*edu), GFP_KERNEL);
	int irq, error;

	if (!edu)
		return -ENOMEM;
	edu->pdev = pdev;
	init_completion(&edu->came);
	error = pcim_enable_device(pdev);
	if (error)
		return error;
	edu->regs = pcim_iomap(pdev, 0, 0);
	if (!edu->regs)
		return -ENOMEM;
	pci_set_master(pdev); /* messages are writes to memory */
	error = edu_msix(edu);
	if (error)
		return error;
	error = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_ALL_TYPES & ~PCI_IRQ_MSIX);
	if (error < 0)
		return error;
	irq = pci_irq_vector(pdev, 0);
	error = devm_request_irq(&pdev->dev, irq, edu_interrupt, IRQF_SHARED, "edu", edu);
	if (error)
		return error;
	edu_test(edu, irq);
	if (edu_count < EDUS_MAX)
		edus[edu_count++] = edu;
	return 0;
}

/* Whether all interrupts come that are raised at once, some of them by the same line. */
static void edu_all_at_once(void)
{
	unsigned int n, came = 0;

	for (n = 0; n < edu_count; n++)
		reinit_completion(&edus[n]->came);
	local_irq_disable();
	for (n = 0; n < edu_count; n++)
		writel(1, edus[n]->regs + EDU_RAISE);
	local_irq_enable();
	for (n = 0; n < edu_count; n++)
		came += wait_for_completion_timeout(&edus[n]->came, 5 * HZ) != 0;
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
