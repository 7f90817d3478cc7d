"""What single images say: limits for new ones, the classes that an arm changes, the images that seeds disagree on."""
