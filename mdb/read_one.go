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
	var messages []Message
	text := id.String()
	switch err := s.run(ctx, messageByID, messagesInto(&messages), text); {
	case err != nil:
		if unreadable := s.findOne(ctx, err, identifyByID, text); unreadable != nil {
			return Message{}, unreadable
		}
		return Message{}, explain("get message "+text, err)
	case len(messages) == 0:
		return Message{}, fmt.Errorf("%w with the ID %s", ErrNoMessage, text)
	}
	return messages[0], nil
}

const withID = `
WHERE id = (SELECT $1::text::uuid)`

var (
	messageByID  = newStatement("message_by_id", directColumns+withID)
	identifyByID = newStatement("identify_by_id", identifyingColumns+withID)
)
