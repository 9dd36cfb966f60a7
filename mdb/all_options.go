package mdb

import (
	"slices"
)

// An AllOption configures a read of all categories or a subscription to them.
type AllOption interface {
	allRead(*readConfig)
	AllSubscribeOption
}

// AllOptions are several options in one, to pass a list of them on to reads and to
// subscriptions.
type AllOptions []AllOption

func (o AllOptions) allRead(c *readConfig) {
	for _, opt := range o {
		opt.allRead(c)
	}
}

func (o AllOptions) allSubscribe(c *subscribeConfig) {
	for _, opt := range o {
		opt.allSubscribe(c)
	}
}

// An AllSubscribeOption configures a subscription to all categories.
type AllSubscribeOption interface{ allSubscribe(*subscribeConfig) }

// A GlobalOption configures a read by global position or a subscription by it, of a category or
// of all categories.
type GlobalOption interface {
	CategoryOption
	AllOption
}

// A GlobalSubscribeOption configures a subscription by global position, to a category or to all
// categories.
type GlobalSubscribeOption interface {
	CategorySubscribeOption
	AllSubscribeOption
}

func (o readOption) allRead(c *readConfig) { o(c) }

type allOption func(*readConfig)

func (o allOption) allRead(c *readConfig)           { o(c) }
func (o allOption) allSubscribe(c *subscribeConfig) { o(&c.read) }

// InCategories selects the messages of some categories, in the order of their global positions.
// Each of them costs a range of an index, so that rare categories are cheap to read, and many
// cost more than a few. A message may have to wait for the end of a transaction that has
// locked another category, see [Store.GetAllMessages].
func InCategories(categories ...Category) AllOption {
	return allOption(func(c *readConfig) {
		if len(categories) == 0 {
			c.faults.add("categories", "none", "at least one; leave out InCategories for all")
		}
		c.categories = make([]string, len(categories))
		for i, category := range categories {
			c.faults.category("category", category)
			c.categories[i] = string(category)
		}
		slices.Sort(c.categories)
		c.categories = slices.Compact(c.categories)
	})
}

// OfTypes selects the messages of some types. The server looks at the types of all messages
// that the read would otherwise return, of a limited number in each statement, so rare types take
// several statements.
func OfTypes(types ...string) AllOption {
	return allOption(func(c *readConfig) {
		if len(types) == 0 {
			c.faults.add("types", "none", "at least one; leave out OfTypes for all")
		}
		for _, typ := range types {
			c.faults.messageType("type", typ)
		}
		c.types = slices.Clone(types)
	})
}
