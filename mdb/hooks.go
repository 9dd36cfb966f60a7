package mdb

import (
	"fmt"
	"strconv"
)

// A Hook observes a [Store]: it implements one or more of the interfaces whose names begin with
// Hook, such as [HookWrite], and each of their methods is called when something happens. It may
// be a tracer, a meter or an audit log. Pass hooks to [WithHooks].
//
// The methods must be safe for concurrent use, and fast: the call that they observe waits for
// them. They are not called while the store holds a lock. The contexts are those of the calls, and
// a method that begins something returns the context with which it continues, which is ctx or
// derived from it. So spans nest, also those of the tracer of the pool's connections. A hook does not
// begin a call of the store itself, unless it can deal with being called for that, too.
//
// A panic of a hook is not recovered: it passes to the caller of the method of the Store, or, from
// a goroutine of the store, such as that of a group of writes, ends the process. A panic of a hook that is
// called with a handler, or with the state of a subscription, ends the subscription with an error, as a panic of its
// callbacks does.
type Hook any

// WithHooks adds hooks. Those that begin something are called in this order, and those that
// end it in the opposite one. A hook that implements none of the interfaces is rejected. Without
// hooks, calls cost nothing more than without this option, and with them, only what the hooks do.
func WithHooks(hooks ...Hook) StoreOption {
	return storeOption(func(c *storeConfig) {
		for i, hook := range hooks {
			if !c.hooks.add(hook) {
				c.faults.add("hook "+strconv.Itoa(i), fmt.Sprintf("%T", hook), "a value that implements an interface such as HookWrite")
			}
		}
	})
}

// hooks are the hooks of a store, by the interfaces that they implement.
type hooks struct {
	calls    []HookWriteCall
	writes   []HookWrite
	metadata []HookMetadata
	groups   []HookGroup
	reads    []HookRead
	handles  []HookHandle
	lives    []HookLive
	retries  []HookRetry
	held     []HookPartitions
	failures []HookFailure
	notify   []HookListening
}

// add adds a hook, and reports whether it implements an interface.
func (h *hooks) add(hook Hook) bool {
	if isNil(hook) {
		return false
	}
	added := addHook(&h.calls, hook)
	added = addHook(&h.writes, hook) || added
	added = addHook(&h.metadata, hook) || added
	added = addHook(&h.groups, hook) || added
	added = addHook(&h.reads, hook) || added
	added = addHook(&h.handles, hook) || added
	added = addHook(&h.lives, hook) || added
	added = addHook(&h.retries, hook) || added
	added = addHook(&h.held, hook) || added
	added = addHook(&h.failures, hook) || added
	return addHook(&h.notify, hook) || added
}

func addHook[T any](to *[]T, hook Hook) bool {
	h, ok := hook.(T)
	if ok {
		*to = append(*to, h)
	}
	return ok
}
