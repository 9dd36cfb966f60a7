package mdb

// HookListening is called with the state of [WithNotify]. [Store.NotifyStats] returns more of it.
type HookListening interface {
	// OnListening is called with true when the connections that listen, usually one, all receive notifications, and with
	// false when one no longer does, so that subscriptions poll. It is called in a goroutine of the store. A panic
	// counts as a failure of the connection, which is logged.
	OnListening(listening bool)
}

// listening returns what calls the hooks, or nil.
func (h *hooks) listening() func(bool) {
	if len(h.notify) == 0 {
		return nil
	}
	return func(listening bool) {
		for _, hook := range h.notify {
			hook.OnListening(listening)
		}
	}
}
