// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * UIO driver for the shared memory of ivshmem devices (PCI 1af4:1110)
 *
 * QEMU's ivshmem device exposes host memory as BAR 2. This driver maps it to
 * user space:
 *
 *	map 0	BAR 0, the registers, uncached
 *	map 1	BAR 2, the memory, write-back
 *
 * As with every UIO device, map N is mapped at file offset N * PAGE_SIZE.
 * Interrupts (BAR 1 of ivshmem-doorbell) are not served.
 *
 * Written for Linux 5.15 and later. Differences between kernel versions are
 * detected in the headers by Kbuild (IVSHMEM_HAVE_*), since distributions
 * backport; see README.md.
 *
 * Three things differ from what the UIO core does by itself:
 *
 * Write-back. The core maps physical memory uncached, and on x86 requesting
 * write-back is not enough: for a range without a memory type of its own
 * vmf_insert_pfn() falls back to uncached-minus, and below 4 GiB the MTRRs of
 * the firmware do the same silently. So BAR 2 is moved above 4 GiB, and
 * memremap() reserves its type as long as the device is bound. All user
 * mappings follow that type; partial unmaps, forks and mremap() do not affect
 * it.
 *
 * Removal. A mapping must not outlive the BAR: other devices may get its
 * addresses. Pages are inserted on faults, never in mmap(), so that none can
 * appear in a mapping that is not yet known to unmap_mapping_range(). Removal
 * unmaps all pages; later faults end in SIGBUS.
 *
 * Private mappings are refused: copy-on-write of device memory makes no sense,
 * and vmf_insert_pfn() does not allow it.
 */

#include <linux/io.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uio_driver.h>

#define IVSHMEM_NAME		"ivshmem"
/* Of the interface to user space, not of this file: programs check it. */
#define IVSHMEM_VERSION		"0.0.1"

#define PCI_DEVICE_ID_IVSHMEM	0x1110

#define IVSHMEM_BAR_REGISTERS	0
#define IVSHMEM_BAR_MEMORY	2

/* Indices of uio_info.mem; user space multiplies them by PAGE_SIZE. */
#define IVSHMEM_MAP_REGISTERS	0
#define IVSHMEM_MAP_MEMORY	1

/* Bytes that one fault maps: 512 entries cost less than 512 faults. */
#define IVSHMEM_FAULT_AROUND	SZ_2M

/**
 * struct ivshmem_file - an open file; its mappings are removed with the device
 * @list: in ivshmem.files
 * @inode: of the device node; there may be several nodes, as in containers
 */
struct ivshmem_file {
	struct list_head list;
	struct inode *inode;
};

/**
 * struct ivshmem - one bound device
 * @info: registered with the UIO core
 * @memory: an unused mapping of BAR 2 that reserves the memory type
 * @files: all open files
 * @gone: the device is being removed; nothing may be mapped any more
 *
 * @files and @gone are protected by uio_device.info_lock. The core holds it
 * around open(), release() and mmap() of this driver.
 */
struct ivshmem {
	struct uio_info info;
	void *memory;
	struct list_head files;
	bool gone;
};

static unsigned long ivshmem_map_pages(const struct uio_mem *mem)
{
	return PAGE_ALIGN(mem->size) >> PAGE_SHIFT;
}

/*
 * The mapping holds the file, the file holds the uio_device, and that has an
 * info only as long as the device is bound. The core's own fault handler
 * relies on the same.
 */
static vm_fault_t ivshmem_fault(struct vm_fault *vmf, unsigned int index)
{
	struct vm_area_struct *vma = vmf->vma;
	struct uio_device *idev = vma->vm_private_data;
	unsigned long address = vmf->address & PAGE_MASK;
	unsigned long start, end, pfn;
	vm_fault_t ret = VM_FAULT_SIGBUS;
	const struct uio_mem *mem;
	struct ivshmem *ivshmem;
	pgoff_t page;

	mutex_lock(&idev->info_lock);
	if (!idev->info)
		goto out;
	ivshmem = idev->info->priv;
	if (ivshmem->gone)
		goto out;

	mem = &ivshmem->info.mem[index];
	page = vmf->pgoff - index;
	if (page >= ivshmem_map_pages(mem))
		goto out;
	pfn = PHYS_PFN(mem->addr) + page;

	ret = vmf_insert_pfn(vma, address, pfn);
	if (ret != VM_FAULT_NOPAGE)
		goto out;

	/* Fault around. A page that fails here faults again. */
	start = max(ALIGN_DOWN(address, IVSHMEM_FAULT_AROUND), vma->vm_start);
	end = min(ALIGN_DOWN(address, IVSHMEM_FAULT_AROUND) +
		  IVSHMEM_FAULT_AROUND, vma->vm_end);
	pfn -= (address - start) >> PAGE_SHIFT;
	for (; start < end; start += PAGE_SIZE, pfn++) {
		if (start == address)
			continue;
		if (vmf_insert_pfn(vma, start, pfn) != VM_FAULT_NOPAGE)
			break;
	}
out:
	mutex_unlock(&idev->info_lock);
	return ret;
}

static vm_fault_t ivshmem_registers_fault(struct vm_fault *vmf)
{
	return ivshmem_fault(vmf, IVSHMEM_MAP_REGISTERS);
}

static vm_fault_t ivshmem_memory_fault(struct vm_fault *vmf)
{
	return ivshmem_fault(vmf, IVSHMEM_MAP_MEMORY);
}

/* One for each map: the offset of a part of a mapping does not tell its map. */
static const struct vm_operations_struct ivshmem_vm_ops[] = {
	[IVSHMEM_MAP_REGISTERS] = { .fault = ivshmem_registers_fault },
	[IVSHMEM_MAP_MEMORY] = { .fault = ivshmem_memory_fault },
};

/* The core checks index and length too, but may stop doing so. */
static int ivshmem_check_mmap(const struct ivshmem *ivshmem, pgoff_t index,
			      unsigned long pages, bool shared)
{
	if (ivshmem->gone)
		return -ENODEV;
	if (index >= ARRAY_SIZE(ivshmem_vm_ops))
		return -EINVAL;
	if (!pages || pages > ivshmem_map_pages(&ivshmem->info.mem[index]))
		return -EINVAL;
	/* Several small BARs in one page cannot be told apart. */
	if (!PAGE_ALIGNED(ivshmem->info.mem[index].addr))
		return -ENODEV;
	if (!shared)
		return -EINVAL;
	return 0;
}

#ifdef IVSHMEM_HAVE_MMAP_PREPARE
static int ivshmem_mmap_prepare(struct uio_info *info,
				struct vm_area_desc *desc)
{
	int ret;

	ret = ivshmem_check_mmap(info->priv, desc->pgoff, vma_desc_pages(desc),
				 vma_desc_test(desc, VMA_MAYSHARE_BIT));
	if (ret)
		return ret;
	/* Set by the core only after the device node has appeared. */
	if (!info->uio_dev)
		return -EAGAIN;

	vma_desc_set_flags(desc, VMA_IO_BIT, VMA_PFNMAP_BIT,
			   VMA_DONTEXPAND_BIT, VMA_DONTDUMP_BIT);
	if (desc->pgoff == IVSHMEM_MAP_REGISTERS)
		desc->page_prot = pgprot_noncached(desc->page_prot);
	desc->vm_ops = &ivshmem_vm_ops[desc->pgoff];
	desc->private_data = info->uio_dev;
	return 0;
}
#else
#ifndef IVSHMEM_HAVE_VM_FLAGS_SET
static inline void vm_flags_set(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags |= flags;
}
#endif

static int ivshmem_mmap(struct uio_info *info, struct vm_area_struct *vma)
{
	int ret;

	/*
	 * VM_MAYSHARE: for a file opened read-only, MAP_SHARED sets this flag
	 * without VM_SHARED.
	 */
	ret = ivshmem_check_mmap(info->priv, vma->vm_pgoff, vma_pages(vma),
				 vma->vm_flags & VM_MAYSHARE);
	if (ret)
		return ret;

	vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	if (vma->vm_pgoff == IVSHMEM_MAP_REGISTERS)
		vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	/* The core has set vm_private_data to the uio_device. */
	vma->vm_ops = &ivshmem_vm_ops[vma->vm_pgoff];
	return 0;
}
#endif

static int ivshmem_open(struct uio_info *info, struct inode *inode)
{
	struct ivshmem *ivshmem = info->priv;
	struct ivshmem_file *file;

	if (ivshmem->gone)
		return -ENODEV;
	file = kmalloc(sizeof(*file), GFP_KERNEL);
	if (!file)
		return -ENOMEM;
	file->inode = inode;
	list_add(&file->list, &ivshmem->files);
	return 0;
}

/* Called after the last mapping of the file is gone. */
static int ivshmem_release(struct uio_info *info, struct inode *inode)
{
	struct ivshmem *ivshmem = info->priv;
	struct ivshmem_file *file;

	list_for_each_entry(file, &ivshmem->files, list) {
		if (file->inode != inode)
			continue;
		list_del(&file->list);
		kfree(file);
		break;
	}
	return 0;
}

/*
 * Removes all mappings for good. Under the lock no file can be released, so
 * the inodes stay valid; after uio_unregister_device() the driver would not
 * be told of releases.
 */
static void ivshmem_revoke(struct ivshmem *ivshmem)
{
	struct uio_device *idev = ivshmem->info.uio_dev;
	struct ivshmem_file *file;

	mutex_lock(&idev->info_lock);
	ivshmem->gone = true;
	list_for_each_entry(file, &ivshmem->files, list)
		unmap_mapping_range(file->inode->i_mapping, 0, 0, 1);
	mutex_unlock(&idev->info_lock);
}

static bool ivshmem_memory_is_low(struct pci_dev *pdev)
{
	/* Only x86 has MTRRs. */
	return IS_ENABLED(CONFIG_X86) &&
	       pci_resource_start(pdev, IVSHMEM_BAR_MEMORY) < SZ_4G;
}

/*
 * Moves BAR 2 above 4 GiB. Fails only if the device is left without BAR 2. If
 * BAR 2 stays below 4 GiB, the device works, but more slowly.
 */
static int ivshmem_raise_memory(struct pci_dev *pdev)
{
	struct resource *res = &pdev->resource[IVSHMEM_BAR_MEMORY];
	const struct resource old = *res;
	u16 command;
	int ret;

	if (!(res->flags & IORESOURCE_MEM_64)) {
		pci_warn(pdev, "BAR 2 %pR is 32-bit only\n", res);
		return 0;
	}

	pci_read_config_word(pdev, PCI_COMMAND, &command);
	pci_write_config_word(pdev, PCI_COMMAND,
			      command & ~PCI_COMMAND_MEMORY);
	pci_release_resource(pdev, IVSHMEM_BAR_MEMORY);
	/* Of several windows the PCI core prefers one above 4 GiB. */
	ret = pci_assign_resource(pdev, IVSHMEM_BAR_MEMORY);
	if (ret) {
		/* The register still has the old address. */
		res->start = old.start;
		res->end = old.end;
		res->flags = old.flags;
		ret = pci_claim_resource(pdev, IVSHMEM_BAR_MEMORY);
		if (ret)
			return ret;
	}
	pci_write_config_word(pdev, PCI_COMMAND, command);

	if (res->start != old.start)
		pci_info(pdev, "BAR 2 moved from %pR to %pR\n", &old, res);
	return 0;
}

static int ivshmem_prepare_memory(struct pci_dev *pdev)
{
	int ret;

	if (ivshmem_memory_is_low(pdev)) {
		/*
		 * A process that has mapped BAR 2 through sysfs would be left
		 * with stale addresses. Requesting the region makes the kernel
		 * remove such mappings (CONFIG_IO_STRICT_DEVMEM), and fails if
		 * another driver uses it.
		 */
		ret = pci_request_region(pdev, IVSHMEM_BAR_MEMORY,
					 KBUILD_MODNAME);
		if (ret)
			return ret;
		pci_release_region(pdev, IVSHMEM_BAR_MEMORY);
		ret = ivshmem_raise_memory(pdev);
		if (ret)
			return ret;
	}
	if (ivshmem_memory_is_low(pdev))
		pci_warn(pdev, "BAR 2 %pR cannot be moved above 4 GiB: MTRRs may make it uncached, which is slow\n",
			 &pdev->resource[IVSHMEM_BAR_MEMORY]);
	return 0;
}

static void ivshmem_describe(struct uio_mem *mem, const char *name,
			     struct pci_dev *pdev, int bar)
{
	mem->name = name;
	mem->addr = pci_resource_start(pdev, bar);
	mem->size = pci_resource_len(pdev, bar);
	mem->memtype = UIO_MEM_PHYS;
}

static int ivshmem_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct ivshmem *ivshmem;
	struct uio_info *info;
	int ret;

	if (!(pci_resource_flags(pdev, IVSHMEM_BAR_REGISTERS) &
	      IORESOURCE_MEM) ||
	    !(pci_resource_flags(pdev, IVSHMEM_BAR_MEMORY) & IORESOURCE_MEM) ||
	    pci_resource_len(pdev, IVSHMEM_BAR_MEMORY) < PAGE_SIZE)
		return dev_err_probe(dev, -ENODEV,
				     "no registers or no memory\n");

	ivshmem = devm_kzalloc(dev, sizeof(*ivshmem), GFP_KERNEL);
	if (!ivshmem)
		return -ENOMEM;
	INIT_LIST_HEAD(&ivshmem->files);

	/* Before the device is enabled: that needs all BARs assigned. */
	ret = ivshmem_prepare_memory(pdev);
	if (ret)
		return dev_err_probe(dev, ret, "no address space for BAR 2\n");

	ret = pci_enable_device(pdev);
	if (ret)
		return dev_err_probe(dev, ret, "cannot enable the device\n");

	ret = pci_request_regions(pdev, KBUILD_MODNAME);
	if (ret) {
		dev_err_probe(dev, ret, "BARs are in use\n");
		goto err_disable;
	}

	info = &ivshmem->info;
	info->name = IVSHMEM_NAME;
	info->version = IVSHMEM_VERSION;
	info->irq = UIO_IRQ_NONE;
	info->priv = ivshmem;
	info->open = ivshmem_open;
	info->release = ivshmem_release;
#ifdef IVSHMEM_HAVE_MMAP_PREPARE
	info->mmap_prepare = ivshmem_mmap_prepare;
#else
	info->mmap = ivshmem_mmap;
#endif
	ivshmem_describe(&info->mem[IVSHMEM_MAP_REGISTERS], "registers", pdev,
			 IVSHMEM_BAR_REGISTERS);
	ivshmem_describe(&info->mem[IVSHMEM_MAP_MEMORY], "memory", pdev,
			 IVSHMEM_BAR_MEMORY);

	ivshmem->memory = memremap(info->mem[IVSHMEM_MAP_MEMORY].addr,
				   info->mem[IVSHMEM_MAP_MEMORY].size,
				   MEMREMAP_WB);
	if (!ivshmem->memory) {
		ret = dev_err_probe(dev, -ENOMEM, "cannot map BAR 2\n");
		goto err_regions;
	}

	pci_set_drvdata(pdev, ivshmem);
	ret = uio_register_device(dev, info);
	if (ret) {
		dev_err_probe(dev, ret, "cannot register the UIO device\n");
		goto err_memory;
	}
	return 0;

err_memory:
	memunmap(ivshmem->memory);
err_regions:
	pci_release_regions(pdev);
err_disable:
	pci_disable_device(pdev);
	return ret;
}

static void ivshmem_remove(struct pci_dev *pdev)
{
	struct ivshmem *ivshmem = pci_get_drvdata(pdev);
	struct ivshmem_file *file, *next;

	ivshmem_revoke(ivshmem);
	uio_unregister_device(&ivshmem->info);
	/* From here on the core does not call this driver. */
	list_for_each_entry_safe(file, next, &ivshmem->files, list)
		kfree(file);
	memunmap(ivshmem->memory);
	pci_release_regions(pdev);
	pci_disable_device(pdev);
}

static const struct pci_device_id ivshmem_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_REDHAT_QUMRANET, PCI_DEVICE_ID_IVSHMEM) },
	{ }
};
MODULE_DEVICE_TABLE(pci, ivshmem_ids);

static struct pci_driver ivshmem_driver = {
	.name = KBUILD_MODNAME,
	.id_table = ivshmem_ids,
	.probe = ivshmem_probe,
	.remove = ivshmem_remove,
};
module_pci_driver(ivshmem_driver);

MODULE_DESCRIPTION("UIO driver for ivshmem devices");
MODULE_AUTHOR("The Isthmus authors");
MODULE_VERSION(IVSHMEM_VERSION);
MODULE_LICENSE("Dual MIT/GPL");
