"""What events and users say beside item and order, as typed fields."""
