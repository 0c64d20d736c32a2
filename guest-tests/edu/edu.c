// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Driver of QEMU's educational device, for tests: has it raise interrupts on each processor in
 * turn, and says how many came, by what, and where.
 *
 * Spec: QEMU, docs/specs/edu.rst.
 */
#include <linux/completion.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>

#define EDU_STATUS	0x24 /* what was raised and is not acknowledged */
#define EDU_RAISE	0x60
#define EDU_ACKNOWLEDGE	0x64

/* On each processor. */
#define ROUNDS		8

struct edu {
	struct pci_dev *pdev;
	void __iomem *regs;
	struct completion came;
	struct cpumask seen;
	unsigned int count;
	u32 value;
};

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

	if (irq_set_affinity(irq, cpumask_of(cpu)))
		return false;
	for (round = 1; round <= ROUNDS; round++) {
		reinit_completion(&edu->came);
		writel(round, edu->regs + EDU_RAISE);
		if (!wait_for_completion_timeout(&edu->came, 5 * HZ) || edu->value != round)
			return false;
	}
	return true;
}

static void edu_test(struct edu *edu, int irq)
{
	const char *means = edu->pdev->msi_enabled ? "MSI" : "INTA#";
	unsigned int cpu;

	for_each_online_cpu(cpu) {
		if (!edu_rounds(edu, irq, cpu))
			dev_err(&edu->pdev->dev, "interrupt lost on CPU %u\n", cpu);
	}
	dev_info(&edu->pdev->dev, "%u of %u interrupts by %s on CPU %*pbl\n", edu->count,
		 ROUNDS * num_online_cpus(), means, cpumask_pr_args(&edu->seen));
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
	error = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_ALL_TYPES);
	if (error < 0)
		return error;
	irq = pci_irq_vector(pdev, 0);
	error = devm_request_irq(&pdev->dev, irq, edu_interrupt, IRQF_SHARED, "edu", edu);
	if (error)
		return error;
	edu_test(edu, irq);
	return 0;
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
module_pci_driver(edu_driver);

MODULE_DESCRIPTION("Test of QEMU's educational device");
MODULE_LICENSE("Dual MIT/GPL");
