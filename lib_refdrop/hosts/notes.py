"""What adapters tell the user when a pass could be guided only in part."""

SWAPPED = "The model was changed in the middle of the generation (a refiner); RefDrop took no part from there on."
BATCH_CHANGED = "Another extension changes the batch inside the model, so not everything could be guided."
