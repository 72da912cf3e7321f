// SPDX-License-Identifier: GPL-2.0
/*
 * Notes which parts of followed disks are written, for kernels from 5.10 on.
 *
 *   block_bio_queue   every new bio, once, as it enters the block layer; a partition's sectors are the whole disk's by then
 *   block_bio_remap   the same bio sent on to another device (md), a clone (dm), or from a partition to its disk
 *
 * `disks` leads from a whole disk's number to an array of cells of one byte, 1 for written; the first two elements are its header:
 *
 *   elements 0, 1 | level 0: 64 KiB a cell | level 1: 64 x that | level 2: 64 x that
 *
 * A write that covers few cells marks those; one that covers many marks the cells of a coarser level in its middle. So
 * even the largest bio (4 GiB of discard) needs fewer than 300 stores, and no loop is longer than 64: what the oldest
 * verifier accepts. Cells are bytes because a store of a byte needs no lock and no atomic "or" (Linux 5.12).
 *
 * The structures are declared here as far as they are used; libbpf adjusts offsets to the running kernel (CO-RE).
 */
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;

enum { BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_HASH_OF_MAPS = 13 };
enum { BPF_F_MMAPABLE = 1 << 10, BPF_F_INNER_MAP = 1 << 12 };

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct gendisk {
	int major;
	int first_minor;
};

struct block_device {
	struct gendisk *bd_disk;
	__u32 bd_dev;
};

struct bvec_iter {
	__u64 bi_sector;
	__u32 bi_size;
};

struct bio {
	struct block_device *bi_bdev;
	__u32 bi_opf;
	struct bvec_iter bi_iter;
};

/* Before Linux 5.12. */
struct bio___disk {
	struct gendisk *bi_disk;
};

struct request_queue;
#pragma clang attribute pop

#define CELLS 64 /* of an element */
#define LEVEL_SHIFT 6
#define LEVEL_0 2 /* its first element */
#define MOST_TOP_CELLS 17 /* of level 2, for 4 GiB at 256 MiB a cell */

struct header {
	__u64 sectors; /* what the cells cover */
	__u32 shift; /* sectors of a cell of level 0, as a power of two; at least 7 */
	__u32 level_1; /* first element */
	__u32 level_2;
	__u32 overflow; /* set when something was written beyond */
	__u8 rest[40]; /* user space's, as is the next element */
};

struct element {
	__u8 cells[CELLS];
};

struct written {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 2);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct element));
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__array(values, struct written);
} disks SEC(".maps");

/* Marks cells of one element: those of `first` to `last`, which lie in the same one. */
static __always_inline void mark(void *map, __u32 base, __u32 first, __u32 last)
{
	__u32 index = base + (first >> LEVEL_SHIFT);
	struct element *element = bpf_map_lookup_elem(map, &index);
	__u32 cell = first & (CELLS - 1), count = last - first;

	if (!element)
		return;
	/* Else clang proves the loop's end and the mask needless, and leaves Linux 6.1 without a bound that it can see. */
	barrier_var(count);
	for (__u32 i = 0; i < CELLS; i++) {
		__u8 *at = &element->cells[cell & (CELLS - 1)];

		/* Reading is cheaper than writing to a cache line that other processors hold. */
		if (*at != 1)
			*at = 1;
		if (i >= count)
			break;
		cell++;
	}
}

/* Marks the outer cells of a level, and returns whether a middle is left, then in cells of the next level. */
static __always_inline int edges(void *map, __u32 base, __u32 *first, __u32 *last)
{
	if (*first >> LEVEL_SHIFT == *last >> LEVEL_SHIFT) {
		mark(map, base, *first, *last);
		return 0;
	}
	mark(map, base, *first, *first | (CELLS - 1));
	mark(map, base, *last & ~(CELLS - 1), *last);
	*first = (*first >> LEVEL_SHIFT) + 1;
	*last = (*last >> LEVEL_SHIFT) - 1;
	return *first <= *last;
}

static __always_inline int note(struct bio *bio, struct gendisk *disk)
{
	__u32 number = (__u32)disk->major << 20 | (__u32)disk->first_minor;
	__u64 start = bio->bi_iter.bi_sector, end;
	__u32 size = bio->bi_iter.bi_size >> 9, zero = 0, first, last, top;
	struct header *header;
	void *map;

	if (!size)
		return 0;
	map = bpf_map_lookup_elem(&disks, &number);
	if (!map)
		return 0;
	header = bpf_map_lookup_elem(map, &zero);
	if (!header)
		return 0;
	end = start + size;
	if (end > header->sectors || end < start) {
		header->overflow = 1;
		return 0;
	}
	first = start >> (header->shift & 63);
	last = (end - 1) >> (header->shift & 63);
	if (!edges(map, LEVEL_0, &first, &last) || !edges(map, header->level_1, &first, &last))
		return 0;
	top = header->level_2;
	for (__u32 i = 0; i < MOST_TOP_CELLS; i++) {
		mark(map, top, first, first);
		if (first >= last)
			return 0;
		first++;
	}
	header->overflow = 1;
	return 0;
}

/* Operations that change a disk have odd numbers: write, discard, secure erase, write same, write zeroes, zone reset. */
static __always_inline int changes(struct bio *bio)
{
	return bio->bi_opf & 1;
}

static __always_inline int queued(struct bio *bio)
{
	if (!changes(bio))
		return 0;
	if (bpf_core_field_exists(bio->bi_bdev))
		return note(bio, bio->bi_bdev->bd_disk);
	return note(bio, ((struct bio___disk *)bio)->bi_disk);
}

SEC("tp_btf/block_bio_queue")
int BPF_PROG(on_queue, struct bio *bio)
{
	return queued(bio);
}

SEC("tp_btf/block_bio_remap")
int BPF_PROG(on_remap, struct bio *bio, __u32 from, __u64 sector)
{
	/*
	 * What was sent on to a partition still has the partition's sectors; the kernel remaps it to the disk next, and
	 * says so with the partition's own number. Only a whole disk's, or that one, are sectors of the disk.
	 */
	if (changes(bio) && bpf_core_field_exists(bio->bi_bdev)) {
		struct block_device *device = bio->bi_bdev;
		struct gendisk *disk = device->bd_disk;
		__u32 whole = (__u32)disk->major << 20 | (__u32)disk->first_minor;

		return device->bd_dev == from || device->bd_dev == whole ? note(bio, disk) : 0;
	}
	return queued(bio);
}

/* Before Linux 5.11 the events began with the queue. */
SEC("tp_btf/block_bio_queue")
int BPF_PROG(on_queue_of, struct request_queue *queue, struct bio *bio)
{
	return queued(bio);
}

SEC("tp_btf/block_bio_remap")
int BPF_PROG(on_remap_of, struct request_queue *queue, struct bio *bio, __u32 from, __u64 sector)
{
	/* The partition's sectors may be taken for the disk's here: too much is noted then, never too little. */
	return queued(bio);
}

char LICENSE[] SEC("license") = "GPL";
