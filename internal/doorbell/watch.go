package doorbell

import "maps"

// consumersChannel is the channel that the functions of package consumer notify. The payload
// is the consumer's name.
const consumersChannel = "message_store_consumers"

// Watch calls f after each notification of a consumer, with its name, and with an empty name
// after a connection was opened, because notifications before that are lost. f is called by
// the bell's goroutines and must not block. stop ends the calls. Without a Connect, f is never
// called.
func (b *Bell) Watch(f func(consumer string)) (stop func()) {
	if !b.listens() {
		return func() {}
	}
	key := new(int)
	b.mu.Lock()
	if b.watchers == nil {
		b.watchers = make(map[*int]func(string))
	}
	b.watchers[key] = f
	b.mu.Unlock()
	b.start()
	return func() {
		b.mu.Lock()
		delete(b.watchers, key)
		b.mu.Unlock()
		b.stop()
	}
}

// tell calls the watchers.
func (b *Bell) tell(consumer string) {
	b.mu.Lock()
	watchers := maps.Clone(b.watchers)
	b.mu.Unlock()
	for _, f := range watchers {
		f(consumer)
	}
}
