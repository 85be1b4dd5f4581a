// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * UIO driver for the shared memory of ivshmem devices (PCI 1af4:1110)
 *
 * QEMU's ivshmem device exposes host memory as BAR 2. This driver maps it to
 * user space:
 *
 *	map 0	BAR 0, the registers: listed, never mapped
 *	map 1	BAR 2, the memory, write-back
 *
 * As with every UIO device, map N is mapped at file offset N * PAGE_SIZE. Map 0
 * exists because UIO numbers maps without gaps, and programs expect the memory
 * at index 1. It cannot be mapped: BAR 0 has 256 bytes, a mapping whole pages,
 * and the rest of the page belongs to whatever device comes next.
 * Interrupts (BAR 1 of ivshmem-doorbell) are not served.
 *
 * Written for Linux 5.15 and later. Differences between kernel versions are
 * detected in the headers by Kbuild (IVSHMEM_HAVE_*), since distributions
 * backport; see README.md.
 *
 * These things differ from what the UIO core does by itself:
 *
 * Write-back. The core maps physical memory uncached, and on x86 requesting
 * write-back is not enough: for a range without a memory type of its own
 * vmf_insert_pfn() falls back to uncached-minus, and below 4 GiB the MTRRs of
 * the firmware do the same silently. So BAR 2 is moved above 4 GiB, and
 * memremap() reserves its type as long as the device is bound. All user
 * mappings follow that type; partial unmaps, forks and mremap() do not affect
 * it. A type that a mapping of resource2 has reserved before wins, silently; so
 * the outcome is checked.
 *
 * Removal. A mapping must not outlive the BAR: other devices may get its
 * addresses. Pages are inserted on faults, never in mmap(), so that none can
 * appear in a mapping that is not yet known to unmap_mapping_range(). Removal
 * unmaps all pages; later faults end in SIGBUS.
 *
 * Huge pages. Where the kernel can tell huge entries of device memory from those
 * of pages (CONFIG_ARCH_SUPPORTS_PMD_PFNMAP, Linux 6.12), aligned parts of a
 * mapping get one entry for each PMD_SIZE. Before, get_user_pages_fast() would
 * look for a struct page that does not exist; there a fault maps small pages of
 * the same range.
 *
 * Debuggers. ptrace() and /proc/PID/mem reach device memory only through
 * ->access().
 *
 * Hibernation. The memory is not in the image, and other machines go on working
 * with it: a process that continued later would write to what has other owners.
 * So hibernation is refused while a file is open.
 *
 * Private mappings are refused: copy-on-write of device memory makes no sense,
 * and vmf_insert_pfn() does not allow it.
 *
 * Encrypted guests (SEV, TDX) are refused: the mappings would be private to the
 * guest, and the other machines would not see what is written to them.
 */

#ifdef IVSHMEM_HAVE_CC_PLATFORM
#include <linux/cc_platform.h>
#endif
#include <linux/io.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#ifdef IVSHMEM_HAVE_PFN_T
#include <linux/pfn_t.h>
#endif
#include <linux/rcupdate.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uio_driver.h>

/* The memory may be larger than an address space of 32 bits has room for. */
#ifndef CONFIG_64BIT
#error "uio_ivshmem needs a kernel of 64 bits"
#endif

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
 * @memory: the kernel's mapping of BAR 2; it reserves the memory type
 * @left: addresses that BAR 2 has left and that processes may still have
 *	mapped; NULL if there are none
 * @files: all open files
 * @ready: the device is registered; no file can be opened before
 * @gone: the device is being removed; nothing may be mapped any more
 *
 * @files, @ready and @gone are protected by uio_device.info_lock. The core holds
 * it around open(), release() and mmap() of this driver.
 */
struct ivshmem {
	struct uio_info info;
	void *memory;
	struct resource *left;
	struct list_head files;
	bool ready;
	bool gone;
};

static const struct uio_mem *ivshmem_memory(const struct ivshmem *ivshmem)
{
	return &ivshmem->info.mem[IVSHMEM_MAP_MEMORY];
}

static unsigned long ivshmem_pages(const struct ivshmem *ivshmem)
{
	return ivshmem_memory(ivshmem)->size >> PAGE_SHIFT;
}

/*
 * The device of a mapping, or NULL if it is gone. Called with info_lock held.
 *
 * The mapping holds the file, the file holds the uio_device, and that has an
 * info only as long as the device is bound. The core's own fault handler
 * relies on the same.
 */
static struct ivshmem *ivshmem_of(const struct vm_area_struct *vma)
{
	struct uio_device *idev = vma->vm_private_data;
	struct ivshmem *ivshmem;

	lockdep_assert_held(&idev->info_lock);
	if (!idev->info)
		return NULL;
	ivshmem = idev->info->priv;
	return ivshmem->gone ? NULL : ivshmem;
}

/* Index in the memory of the page at this address of a mapping. */
static unsigned long ivshmem_page_at(const struct vm_area_struct *vma,
				     unsigned long address)
{
	return vma->vm_pgoff - IVSHMEM_MAP_MEMORY +
	       ((address - vma->vm_start) >> PAGE_SHIFT);
}

static vm_fault_t ivshmem_map_small(struct ivshmem *ivshmem,
				    struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long address = vmf->address & PAGE_MASK;
	unsigned long page = ivshmem_page_at(vma, address);
	unsigned long start, end, pfn;
	vm_fault_t ret;

	if (page >= ivshmem_pages(ivshmem))
		return VM_FAULT_SIGBUS;
	pfn = PHYS_PFN(ivshmem_memory(ivshmem)->addr) + page;
	ret = vmf_insert_pfn(vma, address, pfn);
	if (ret != VM_FAULT_NOPAGE)
		return ret;

	/*
	 * Fault around. mmap() has checked that all of a mapping lies in the
	 * memory. A page that fails here faults again.
	 */
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
	return VM_FAULT_NOPAGE;
}

static vm_fault_t ivshmem_fault(struct vm_fault *vmf)
{
	struct uio_device *idev = vmf->vma->vm_private_data;
	vm_fault_t ret = VM_FAULT_SIGBUS;
	struct ivshmem *ivshmem;

	mutex_lock(&idev->info_lock);
	ivshmem = ivshmem_of(vmf->vma);
	if (ivshmem)
		ret = ivshmem_map_small(ivshmem, vmf);
	mutex_unlock(&idev->info_lock);
	return ret;
}

#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
static vm_fault_t ivshmem_map_pmd(struct ivshmem *ivshmem, struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long address = vmf->address & PMD_MASK;
	unsigned long pages = PMD_SIZE >> PAGE_SHIFT;
	bool write = vmf->flags & FAULT_FLAG_WRITE;
	unsigned long page, pfn;

	if (address < vma->vm_start || vma->vm_end - address < PMD_SIZE)
		return VM_FAULT_FALLBACK;
	page = ivshmem_page_at(vma, address);
	pfn = PHYS_PFN(ivshmem_memory(ivshmem)->addr) + page;
	if (!IS_ALIGNED(pfn, pages) || page >= ivshmem_pages(ivshmem) ||
	    ivshmem_pages(ivshmem) - page < pages)
		return VM_FAULT_FALLBACK;
#ifdef IVSHMEM_HAVE_PFN_T
	return vmf_insert_pfn_pmd(vmf, __pfn_to_pfn_t(pfn, PFN_DEV), write);
#else
	return vmf_insert_pfn_pmd(vmf, pfn, write);
#endif
}

static vm_fault_t ivshmem_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct uio_device *idev = vmf->vma->vm_private_data;
	vm_fault_t ret = VM_FAULT_SIGBUS;
	struct ivshmem *ivshmem;

	if (order != PMD_SHIFT - PAGE_SHIFT)
		return VM_FAULT_FALLBACK;
	mutex_lock(&idev->info_lock);
	ivshmem = ivshmem_of(vmf->vma);
	if (ivshmem)
		ret = ivshmem_map_pmd(ivshmem, vmf);
	mutex_unlock(&idev->info_lock);
	return ret;
}
#endif

/*
 * For ptrace() and /proc/PID/mem. The caller has checked that it may access the
 * process, but neither that the mapping is long enough nor that it is writable.
 */
static int ivshmem_access(struct vm_area_struct *vma, unsigned long address,
			  void *buffer, int length, int write)
{
	struct uio_device *idev = vma->vm_private_data;
	struct ivshmem *ivshmem;
	int ret = -EIO;
	size_t offset;

	if (write && !(vma->vm_flags & VM_WRITE))
		return -EACCES;
	if (length <= 0)
		return -EINVAL;
	length = min_t(unsigned long, length, vma->vm_end - address);

	mutex_lock(&idev->info_lock);
	ivshmem = ivshmem_of(vma);
	if (!ivshmem)
		goto out;
	offset = (ivshmem_page_at(vma, address) << PAGE_SHIFT) +
		 offset_in_page(address);
	if (offset >= ivshmem_memory(ivshmem)->size ||
	    ivshmem_memory(ivshmem)->size - offset < length)
		goto out;
	if (write)
		memcpy(ivshmem->memory + offset, buffer, length);
	else
		memcpy(buffer, ivshmem->memory + offset, length);
	ret = length;
out:
	mutex_unlock(&idev->info_lock);
	return ret;
}

static const struct vm_operations_struct ivshmem_vm_ops = {
	.fault = ivshmem_fault,
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
	.huge_fault = ivshmem_huge_fault,
#endif
	.access = ivshmem_access,
};

/* The core checks index and length too, but may stop doing so. */
static int ivshmem_check_mmap(const struct ivshmem *ivshmem, pgoff_t index,
			      unsigned long pages, bool shared)
{
	/* As the core answers once the device is unregistered. */
	if (ivshmem->gone)
		return -EINVAL;
	if (index != IVSHMEM_MAP_MEMORY)
		return -EINVAL;
	if (!pages || pages > ivshmem_pages(ivshmem))
		return -EINVAL;
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

	vma_desc_set_flags(desc, VMA_IO_BIT, VMA_PFNMAP_BIT,
			   VMA_DONTEXPAND_BIT, VMA_DONTDUMP_BIT);
	desc->vm_ops = &ivshmem_vm_ops;
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
	/* The core has set vm_private_data to the uio_device. */
	vma->vm_ops = &ivshmem_vm_ops;
	return 0;
}
#endif

static int ivshmem_open(struct uio_info *info, struct inode *inode)
{
	struct ivshmem *ivshmem = info->priv;
	struct ivshmem_file *file;

	if (ivshmem->gone)
		return -ENODEV;
	/*
	 * The device node appears before uio_register_device() has succeeded.
	 * If that fails, a file would be left that uses freed memory.
	 */
	if (!ivshmem->ready)
		return -EAGAIN;
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
 * Unmaps all pages. Under the lock no file can be released, so the inodes stay
 * valid; after uio_unregister_device() the driver would not be told of releases.
 */
static void ivshmem_unmap(const struct ivshmem *ivshmem)
{
	const struct ivshmem_file *file;

	lockdep_assert_held(&ivshmem->info.uio_dev->info_lock);
	list_for_each_entry(file, &ivshmem->files, list)
		unmap_mapping_range(file->inode->i_mapping, 0, 0, 1);
}

/* Removes all mappings for good. */
static void ivshmem_revoke(struct ivshmem *ivshmem)
{
	struct uio_device *idev = ivshmem->info.uio_dev;
	bool used;

	mutex_lock(&idev->info_lock);
	ivshmem->gone = true;
	ivshmem_unmap(ivshmem);
	used = !list_empty(&ivshmem->files);
	mutex_unlock(&idev->info_lock);
	if (!IS_ENABLED(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP) || !used)
		return;

	/*
	 * copy_huge_pmd() of a fork reads a huge entry before it takes the lock,
	 * and does not look at it again: it may have set a stale one in the
	 * child. It does not sleep in between, but may be preempted there, which
	 * only this variant of RCU waits for.
	 */
	synchronize_rcu_tasks();
	mutex_lock(&idev->info_lock);
	ivshmem_unmap(ivshmem);
	mutex_unlock(&idev->info_lock);
}

static bool ivshmem_memory_is_low(struct pci_dev *pdev)
{
	/* Only x86 has MTRRs. */
	return IS_ENABLED(CONFIG_X86) &&
	       pci_resource_start(pdev, IVSHMEM_BAR_MEMORY) < SZ_4G;
}

/* Whether a window of the bus above 4 GiB has room for BAR 2. */
static bool ivshmem_room_above(struct pci_dev *pdev)
{
	const struct resource *memory = &pdev->resource[IVSHMEM_BAR_MEMORY];
	resource_size_t size = resource_size(memory);
	struct resource test = {
		.name = KBUILD_MODNAME,
		.flags = memory->flags & (IORESOURCE_MEM | IORESOURCE_MEM_64 |
					  IORESOURCE_PREFETCH),
	};

	if (pci_bus_alloc_resource(pdev->bus, &test, size, size, SZ_4G, 0,
				   NULL, NULL))
		return false;
	release_resource(&test);
	return test.start >= SZ_4G;
}

/*
 * Keeps other devices away from the addresses that BAR 2 has left: a process may
 * have them mapped through sysfs. With CONFIG_IO_STRICT_DEVMEM (and without
 * iomem=relaxed) an exclusive request removes such mappings; without, it only
 * refuses new ones.
 */
static void ivshmem_hold(struct pci_dev *pdev, struct ivshmem *ivshmem,
			 const struct resource *old)
{
	ivshmem->left = request_mem_region_exclusive(old->start,
						     resource_size(old),
						     KBUILD_MODNAME);
	if (!ivshmem->left)
		pci_warn(pdev, "%pR is in use already\n", old);
}

static void ivshmem_let_go(struct ivshmem *ivshmem)
{
	if (ivshmem->left)
		release_mem_region(ivshmem->left->start,
				   resource_size(ivshmem->left));
	ivshmem->left = NULL;
}

/*
 * Moves an assigned BAR 2 above 4 GiB. Fails only if another driver uses BAR 2
 * or the device is left without it. If BAR 2 stays below 4 GiB, the device
 * works, but more slowly.
 */
static int ivshmem_raise_memory(struct pci_dev *pdev, struct ivshmem *ivshmem)
{
	struct resource *res = &pdev->resource[IVSHMEM_BAR_MEMORY];
	const struct resource old = *res;
	u16 command;
	int ret;

	if (!(res->flags & IORESOURCE_MEM_64)) {
		pci_warn(pdev, "BAR 2 %pR is 32-bit only\n", res);
		return 0;
	}
	/* The old address is not given up for nothing. */
	if (!ivshmem_room_above(pdev))
		return 0;

	/*
	 * Fails if another driver uses BAR 2. With CONFIG_IO_STRICT_DEVMEM it
	 * also removes what a process has mapped through sysfs, before the
	 * address is given up.
	 */
	ret = pci_request_selected_regions_exclusive(pdev,
						     BIT(IVSHMEM_BAR_MEMORY),
						     KBUILD_MODNAME);
	if (ret)
		return ret;
	pci_release_selected_regions(pdev, BIT(IVSHMEM_BAR_MEMORY));

	pci_read_config_word(pdev, PCI_COMMAND, &command);
	pci_write_config_word(pdev, PCI_COMMAND,
			      command & ~PCI_COMMAND_MEMORY);
	/*
	 * Not pci_release_resource(): that sets the start to 0, and sysfs would
	 * map what is there, which is RAM. So sysfs sees the old address until
	 * there is a new one, and the old one is refused once it is held.
	 */
	release_resource(res);
	ivshmem_hold(pdev, ivshmem, &old);
	/* Of several windows the PCI core prefers one above 4 GiB. */
	ret = pci_assign_resource(pdev, IVSHMEM_BAR_MEMORY);
	if (ret) {
		/* The register still has the old address. */
		ivshmem_let_go(ivshmem);
		res->start = old.start;
		res->end = old.end;
		res->flags = old.flags;
		ret = pci_claim_resource(pdev, IVSHMEM_BAR_MEMORY);
	}
	if (ret) {
		/*
		 * Another device has taken the old address in between, and the
		 * register cannot be emptied: with its memory decoded this
		 * device would answer for the other one. So decoding stays off.
		 */
		pci_err(pdev, "BAR 2 has lost its address; remove the device and rescan the bus\n");
		return ret;
	}
	pci_write_config_word(pdev, PCI_COMMAND, command);

	if (res->start == old.start) {
		ivshmem_let_go(ivshmem);
		return 0;
	}
	if (IS_ENABLED(CONFIG_IO_STRICT_DEVMEM)) {
		/*
		 * Once more, for a process that was in the middle of mmap() when
		 * the range was requested. After that nothing maps the range.
		 */
		ivshmem_let_go(ivshmem);
		ivshmem_hold(pdev, ivshmem, &old);
		ivshmem_let_go(ivshmem);
	}
	pci_info(pdev, "BAR 2 moved from %pR to %pR\n", &old, res);
	return 0;
}

static int ivshmem_prepare_memory(struct pci_dev *pdev, struct ivshmem *ivshmem)
{
	const struct resource *res = &pdev->resource[IVSHMEM_BAR_MEMORY];
	int ret = 0;

	/* There was no room for it, or an earlier bind has lost its address. */
	if (!res->parent)
		ret = pci_assign_resource(pdev, IVSHMEM_BAR_MEMORY);
	else if (ivshmem_memory_is_low(pdev))
		ret = ivshmem_raise_memory(pdev, ivshmem);
	if (ret)
		return ret;
	if (ivshmem_memory_is_low(pdev))
		pci_warn(pdev, "BAR 2 %pR cannot be moved above 4 GiB: MTRRs may make it uncached, which is slow\n",
			 res);
	return 0;
}

/*
 * Enables the device, with memory decoded. pci_enable_device() only counts if the
 * device is enabled already, as through sysfs; then decoding is still off if an
 * earlier bind has lost the address of BAR 2.
 */
static int ivshmem_enable(struct pci_dev *pdev)
{
	u16 command;
	int ret;

	ret = pci_enable_device(pdev);
	if (ret)
		return ret;
	pci_read_config_word(pdev, PCI_COMMAND, &command);
	if (!(command & PCI_COMMAND_MEMORY))
		pci_write_config_word(pdev, PCI_COMMAND,
				      command | PCI_COMMAND_MEMORY);
	return 0;
}

/*
 * Whether the kernel's mapping, and with it each mapping of a process, has the
 * type that was requested. memremap() succeeds with another one, too.
 */
static bool ivshmem_is_write_back(const struct ivshmem *ivshmem)
{
#ifdef CONFIG_X86
	unsigned int level;
	const pte_t *pte;

	/* Of entries of all levels: write-back has neither of these bits. */
	pte = lookup_address((unsigned long)ivshmem->memory, &level);
	return pte && !(pte_flags(*pte) & (_PAGE_PCD | _PAGE_PWT));
#else
	return true;
#endif
}

/* Whether what the guest writes is encrypted, if it does not say otherwise. */
static bool ivshmem_is_encrypted(void)
{
#ifdef IVSHMEM_HAVE_CC_PLATFORM
	return cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT);
#else
	return false;
#endif
}

static void ivshmem_describe(struct uio_mem *mem, const char *name,
			     struct pci_dev *pdev, int bar, int memtype)
{
	mem->name = name;
	mem->addr = pci_resource_start(pdev, bar);
	mem->size = pci_resource_len(pdev, bar);
	mem->memtype = memtype;
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
	if (ivshmem_is_encrypted())
		return dev_err_probe(dev, -EOPNOTSUPP,
				     "the memory of this guest is encrypted: it cannot share any\n");

	ivshmem = devm_kzalloc(dev, sizeof(*ivshmem), GFP_KERNEL);
	if (!ivshmem)
		return -ENOMEM;
	INIT_LIST_HEAD(&ivshmem->files);

	/* Before the device is enabled: that needs all BARs assigned. */
	ret = ivshmem_prepare_memory(pdev, ivshmem);
	if (ret) {
		dev_err_probe(dev, ret, "cannot place BAR 2\n");
		goto err_left;
	}

	ret = ivshmem_enable(pdev);
	if (ret) {
		dev_err_probe(dev, ret, "cannot enable the device\n");
		goto err_left;
	}

	/*
	 * Exclusive: no process can map a BAR through sysfs or /dev/mem as long
	 * as the device is bound.
	 */
	ret = pci_request_regions_exclusive(pdev, KBUILD_MODNAME);
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
			 IVSHMEM_BAR_REGISTERS, UIO_MEM_NONE);
	ivshmem_describe(&info->mem[IVSHMEM_MAP_MEMORY], "memory", pdev,
			 IVSHMEM_BAR_MEMORY, UIO_MEM_PHYS);

	ivshmem->memory = memremap(ivshmem_memory(ivshmem)->addr,
				   ivshmem_memory(ivshmem)->size, MEMREMAP_WB);
	if (!ivshmem->memory) {
		ret = dev_err_probe(dev, -ENOMEM, "cannot map BAR 2\n");
		goto err_regions;
	}
	/* Below 4 GiB there has been a warning already. */
	if (!ivshmem_memory_is_low(pdev) && !ivshmem_is_write_back(ivshmem))
		pci_warn(pdev, "BAR 2 is not write-back, which is slow: end programs that map resource2, then bind again\n");

	pci_set_drvdata(pdev, ivshmem);
	ret = uio_register_device(dev, info);
	if (ret) {
		dev_err_probe(dev, ret, "cannot register the UIO device\n");
		goto err_memory;
	}
	mutex_lock(&info->uio_dev->info_lock);
	ivshmem->ready = true;
	mutex_unlock(&info->uio_dev->info_lock);
	return 0;

err_memory:
	memunmap(ivshmem->memory);
err_regions:
	pci_release_regions(pdev);
err_disable:
	pci_disable_device(pdev);
err_left:
	ivshmem_let_go(ivshmem);
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
	ivshmem_let_go(ivshmem);
}

/*
 * Before a hibernation image is made, and before one is loaded. Processes are
 * frozen then, so that what is found stays so.
 */
static int ivshmem_freeze(struct device *dev)
{
	struct ivshmem *ivshmem = dev_get_drvdata(dev);
	struct uio_device *idev = ivshmem->info.uio_dev;
	bool used;

	mutex_lock(&idev->info_lock);
	used = !list_empty(&ivshmem->files);
	mutex_unlock(&idev->info_lock);
	if (!used)
		return 0;
	dev_err(dev, "no hibernation while %s is in use: its memory is shared with other machines, and not part of the image\n",
		dev_name(&idev->dev));
	return -EBUSY;
}

static const struct dev_pm_ops ivshmem_pm_ops = {
	.freeze = ivshmem_freeze,
};

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
	.driver.pm = &ivshmem_pm_ops,
};
module_pci_driver(ivshmem_driver);

MODULE_DESCRIPTION("UIO driver for ivshmem devices");
MODULE_AUTHOR("The Isthmus authors");
MODULE_VERSION(IVSHMEM_VERSION);
MODULE_LICENSE("Dual MIT/GPL");
