package mdb

import "github.com/messagedb-go/messagedb/internal/beside"

// A Subscriber is a subscription or a consumer.
type Subscriber struct {
	// Consumer is the name of the consumer, or empty for a subscription.
	Consumer string
	// Category is what a subscription to a category is to, and Stream the stream of one to a stream.
	// Both are empty for a consumer.
	Category Category
	Stream   StreamName
}

func init() {
	beside.Observe = func(s *Store, consumer string, live *func(bool), retry *func(Retry), held *func([]int)) {
		s.config.hooks.observe(Subscriber{Consumer: consumer}, live, retry, held)
	}
	beside.Failed = func(s *Store) func(FailedHandling) {
		hooks := s.config.hooks.failures
		if len(hooks) == 0 {
			return nil
		}
		return func(f FailedHandling) {
			for _, hook := range hooks {
				hook.OnFailure(f)
			}
		}
	}
}

// HookLive is called when a subscription or a consumer has caught up, or has not, as the functions of
// OnLive are, and after them.
type HookLive interface {
	OnLive(of Subscriber, live bool)
}

// HookRetry is called when a read of a subscription or a consumer will be retried, or a statement by which
// a process takes part in a consumer, as the functions of OnRetry are, and after them.
type HookRetry interface {
	OnRetry(of Subscriber, r Retry)
}

// observe adds hooks to the callbacks of a subscription or a consumer.
func (h *hooks) observe(of Subscriber, live *func(bool), retry *func(Retry), held *func([]int)) {
	if callback := *held; len(h.held) > 0 {
		*held = func(numbers []int) {
			if callback != nil {
				callback(numbers)
			}
			for _, hook := range h.held {
				hook.OnPartitions(of, numbers)
			}
		}
	}
	if callback := *live; len(h.lives) > 0 {
		*live = func(isLive bool) {
			if callback != nil {
				callback(isLive)
			}
			for _, hook := range h.lives {
				hook.OnLive(of, isLive)
			}
		}
	}
	if callback := *retry; len(h.retries) > 0 {
		*retry = func(r Retry) {
			if callback != nil {
				callback(r)
			}
			for _, hook := range h.retries {
				hook.OnRetry(of, r)
			}
		}
	}
}

// HookPartitions is called with the numbers of the partitions of a consumer that belong to this process,
// when they have changed, as the function of OnPartitions of package consumer is, and after it.
type HookPartitions interface {
	OnPartitions(of Subscriber, held []int)
}

// The actions of a [FailedHandling].
const (
	ActionRetry = "retry"
	ActionPark  = "park"
	ActionSkip  = "skip"
	ActionStop  = "stop"
)

// A FailedHandling is a failed attempt of a consumer to handle a message, and what it does about that.
type FailedHandling struct {
	// Subscriber is the consumer.
	Subscriber
	// Partition is the number of the message's partition.
	Partition int
	// Message is the message, Attempt the number of attempts that have failed, and Replayed is true if the
	// message is of a parked stream.
	Message  Message
	Attempt  int
	Replayed bool
	// Err is the error of the handler.
	Err error
	// Action is ActionRetry, ActionPark, ActionSkip or ActionStop. A stream that is replayed remains
	// parked after the first two.
	Action string
}

// HookFailure is called for each failed attempt of a consumer that counts, when it is decided what is
// to be done. Parking can still fail, and is retried then.
type HookFailure interface {
	OnFailure(f FailedHandling)
}
