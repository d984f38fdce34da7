/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Sends to gate64 exactly its own traffic, and leaves the rest to the kernel:
 *
 *   IPv6 to a translation prefix                                       -> gate64
 *   IPv4 to a pool address                                             -> gate64
 *   IPv4 to a pool address that the host uses too ("shared"):
 *     TCP, UDP to a pool port or a static entry                        -> gate64
 *     echo reply with a pool identifier, echo request to a static one  -> gate64
 *     ICMP error about a packet that gate64 sent (inner source port)   -> gate64
 *     later fragments, if the first one went to gate64                 -> gate64
 *     anything else                                                    -> kernel
 *   anything else: ARP, ND, routing protocols, SSH, native IPv6 ...    -> kernel
 *
 * A later fragment does not say whose it is; a small table remembers first fragments. One that
 * overtakes its first goes to the kernel, which drops it when its reassembly times out.
 * Where a queue has no socket, gate64's traffic is dropped and counted: the kernel must never
 * forward it untranslated.
 */
#include "bpf.h"

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_8021Q 0x8100
#define VLAN_ID_MASK 0x0fff
#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV4_MORE_FRAGMENTS 0x2000
#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17

/* Set by the loader before the program is attached. */
struct settings {
	u16 vlan; /* host order; 0: untagged */
};

struct pref64_key {
	u32 length;
	u8 address[16];
};

struct pool4_key {
	u32 length;
	u32 address;
};

enum { POOL4_OURS = 0, POOL4_SHARED = 1, POOL4_EXCLUDED = 2 };

struct pool4 {
	u16 kind;
	u16 port_first; /* host order */
	u16 port_last;
	u16 pad;
};

struct static_key {
	u32 address;
	u16 port; /* network order */
	u16 protocol;
};

struct fragment_key {
	u32 src;
	u32 dst;
	u16 id;
	u16 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct settings);
} SETTINGS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64); /* the loader sets the number of queues */
	__type(key, u32);
	__type(value, u32);
} SOCKETS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pref64_key);
	__type(value, u32);
} PREF64 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pool4_key);
	__type(value, struct pool4);
} POOL4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct static_key);
	__type(value, u32);
} STATIC4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct fragment_key);
	__type(value, u32);
} FRAGMENTS SEC(".maps");

/* The order is that of SteeringStatistics in src/io/steering.rs. */
enum { TO_GATE64_V6, TO_GATE64_V4, NO_SOCKET, SHARED_PASSED, PASSED, COUNT };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNT);
	__type(key, u32);
	__type(value, u64);
} STATISTICS SEC(".maps");

struct ethernet {
	u8 dst[6];
	u8 src[6];
	u16 type;
};

struct vlan_tag {
	u16 control;
	u16 type;
};

struct ipv6 {
	u8 head[24];
	u8 dst[16];
};

struct ipv4 {
	u8 version_length;
	u8 tos;
	u16 length;
	u16 id;
	u16 fragment;
	u8 ttl;
	u8 protocol;
	u16 checksum;
	u32 src;
	u32 dst;
};

struct ports {
	u16 src;
	u16 dst;
};

struct icmp {
	u8 type;
	u8 code;
	u16 checksum;
	u16 id;
	u16 sequence;
};

struct cursor {
	void *at;
	void *end;
};

INLINE void count(u32 what)
{
	u64 *value = bpf_map_lookup_elem(&STATISTICS, &what);
	if (value)
		*value += 1;
}

INLINE int pass(u32 what)
{
	count(what);
	return XDP_PASS;
}

INLINE int to_gate64(struct xdp_md *ctx, u32 what)
{
	/* The last argument is the action where the queue has no socket. */
	int action = bpf_redirect_map(&SOCKETS, ctx->rx_queue_index, XDP_DROP);
	count(action == XDP_REDIRECT ? what : NO_SOCKET);
	return action;
}

INLINE int port_is_ours(const struct pool4 *pool, u16 port, u16 protocol, u32 address)
{
	struct static_key key = { .address = address, .port = port, .protocol = protocol };
	u16 number = ntohs(port);
	if (number >= pool->port_first && number <= pool->port_last)
		return 1;
	return bpf_map_lookup_elem(&STATIC4, &key) != 0;
}

/* An ICMP error is gate64's if it sent the packet inside: by that one's source port. */
INLINE int inner_is_ours(struct cursor c, const struct pool4 *pool)
{
	struct ipv4 *ip = c.at;
	if ((void *)(ip + 1) > c.end)
		return 0;
	u32 length = (ip->version_length & 0x0f) * 4;
	if (length < sizeof(*ip) || (ip->fragment & htons(IPV4_FRAGMENT_OFFSET)))
		return 0;
	void *l4 = (void *)ip + length;
	if (ip->protocol == PROTOCOL_TCP || ip->protocol == PROTOCOL_UDP) {
		struct ports *ports = l4;
		if ((void *)(ports + 1) > c.end)
			return 0;
		return port_is_ours(pool, ports->src, ip->protocol, ip->src);
	}
	if (ip->protocol == PROTOCOL_ICMP) {
		struct icmp *icmp = l4;
		if ((void *)(icmp + 1) > c.end || (icmp->type != 8 && icmp->type != 0))
			return 0;
		return port_is_ours(pool, icmp->id, PROTOCOL_ICMP, ip->src);
	}
	return 0;
}

INLINE int icmp_is_ours(struct cursor c, const struct pool4 *pool, u32 address)
{
	struct icmp *icmp = c.at;
	if ((void *)(icmp + 1) > c.end)
		return 0;
	struct static_key key = {
		.address = address, .port = icmp->id, .protocol = PROTOCOL_ICMP
	};
	switch (icmp->type) {
	case 0: /* echo reply: to a query that gate64 or the host sent */
		return port_is_ours(pool, icmp->id, PROTOCOL_ICMP, address);
	case 8: /* echo request: the host answers pings of its own address */
		return bpf_map_lookup_elem(&STATIC4, &key) != 0;
	case 3: /* unreachable */
	case 4: /* source quench */
	case 11: /* time exceeded */
	case 12: /* parameter problem */
		c.at = icmp + 1;
		return inner_is_ours(c, pool);
	}
	return 0;
}

INLINE int l4_is_ours(struct cursor c, const struct pool4 *pool, u8 protocol, u32 address)
{
	if (protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP) {
		struct ports *ports = c.at;
		if ((void *)(ports + 1) > c.end)
			return 0;
		return port_is_ours(pool, ports->dst, protocol, address);
	}
	if (protocol == PROTOCOL_ICMP)
		return icmp_is_ours(c, pool, address);
	return 0;
}

INLINE int shared_is_ours(struct ipv4 *ip, struct cursor c, const struct pool4 *pool)
{
	struct fragment_key key = {
		.src = ip->src, .dst = ip->dst, .id = ip->id, .protocol = ip->protocol
	};
	if (ip->fragment & htons(IPV4_FRAGMENT_OFFSET))
		return bpf_map_lookup_elem(&FRAGMENTS, &key) != 0;
	u32 length = (ip->version_length & 0x0f) * 4;
	if (length < sizeof(*ip))
		return 0;
	c.at = (void *)ip + length;
	if (!l4_is_ours(c, pool, ip->protocol, ip->dst))
		return 0;
	if (ip->fragment & htons(IPV4_MORE_FRAGMENTS)) {
		u32 seen = 1;
		bpf_map_update_elem(&FRAGMENTS, &key, &seen, 0);
	}
	return 1;
}

INLINE int steer_v4(struct xdp_md *ctx, struct cursor c)
{
	struct ipv4 *ip = c.at;
	if ((void *)(ip + 1) > c.end)
		return pass(PASSED);
	struct pool4_key key = { .length = 32, .address = ip->dst };
	struct pool4 *pool = bpf_map_lookup_elem(&POOL4, &key);
	if (!pool || pool->kind == POOL4_EXCLUDED)
		return pass(PASSED);
	if (pool->kind == POOL4_SHARED && !shared_is_ours(ip, c, pool))
		return pass(SHARED_PASSED);
	return to_gate64(ctx, TO_GATE64_V4);
}

INLINE int steer_v6(struct xdp_md *ctx, struct cursor c)
{
	struct ipv6 *ip = c.at;
	if ((void *)(ip + 1) > c.end)
		return pass(PASSED);
	struct pref64_key key = { .length = 128 };
	__builtin_memcpy(key.address, ip->dst, sizeof(key.address));
	if (!bpf_map_lookup_elem(&PREF64, &key))
		return pass(PASSED);
	return to_gate64(ctx, TO_GATE64_V6);
}

INLINE int steer_frame(struct xdp_md *ctx)
{
	struct cursor c = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	u32 zero = 0;
	struct settings *settings = bpf_map_lookup_elem(&SETTINGS, &zero);
	struct ethernet *ethernet = c.at;
	if (!settings || (void *)(ethernet + 1) > c.end)
		return pass(PASSED);
	if (ethernet->dst[0] & 1) /* group address: not for a router to forward */
		return pass(PASSED);
	u16 type = ethernet->type;
	c.at = ethernet + 1;
	if (settings->vlan) {
		struct vlan_tag *tag = c.at;
		if (type != htons(ETHERTYPE_8021Q) || (void *)(tag + 1) > c.end)
			return pass(PASSED);
		if ((ntohs(tag->control) & VLAN_ID_MASK) != settings->vlan)
			return pass(PASSED);
		type = tag->type;
		c.at = tag + 1;
	}
	if (type == htons(ETHERTYPE_IPV6))
		return steer_v6(ctx, c);
	if (type == htons(ETHERTYPE_IPV4))
		return steer_v4(ctx, c);
	return pass(PASSED);
}

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	return steer_frame(ctx);
}

/* For interfaces whose MTU does not fit one buffer of the driver. */
SEC("xdp.frags")
int steer_frags(struct xdp_md *ctx)
{
	return steer_frame(ctx);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
