package mdb

import (
	"context"
	"fmt"

	"github.com/google/uuid"
)

// GetMessage reads the message with an ID, in one round trip. If there is none, the error wraps
// [ErrNoMessage] and contains the ID. If the message cannot be read, the error is an
// [*UnreadableError].
//
// No procedure of Message DB returns it, so it reads the table messages, by an index. If the role
// may not do that, the error is a [*SetupError].
func (s *procedures) GetMessage(ctx context.Context, id uuid.UUID) (Message, error) {
	call := ReadCall{Method: "GetMessage", InTx: s.tx != nil}
	ctx, begun := s.config.hooks.startRead(ctx, call)
	var messages []Message
	err := s.reading(ctx, false, func(s *procedures) (err error) {
		messages, err = s.messageByID(ctx, id.String())
		return err
	})
	s.config.hooks.endRead(ctx, call, begun, messages, err)
	if err != nil {
		return Message{}, err
	}
	return messages[0], nil
}

// messageByID returns the message with the ID, and no other one.
func (s *procedures) messageByID(ctx context.Context, id string) (messages []Message, err error) {
	switch err := s.run(ctx, messageByID, messagesInto(&messages), id); {
	case err != nil:
		if unreadable := s.findOne(ctx, err, identifyByID, id); unreadable != nil {
			return nil, unreadable
		}
		return nil, explain("get message "+id, err)
	case len(messages) == 0:
		return nil, fmt.Errorf("%w with the ID %s", ErrNoMessage, id)
	}
	return messages[:1], nil
}

const withID = `
WHERE id = (SELECT $1::text::uuid)`

var (
	messageByID  = newStatement("message_by_id", directColumns+withID)
	identifyByID = newStatement("identify_by_id", identifyingColumns+withID)
)
